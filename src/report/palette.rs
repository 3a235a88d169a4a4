//! Colours of classes: those of Cityscapes where the name is one of street scenes, else a sequence
//! of distinct ones.

/// What Cityscapes (and CamVid, whose names differ) shows a class in.
const STREET: [(&str, [u8; 3]); 32] = [
    ("road", [128, 64, 128]),
    ("sidewalk", [244, 35, 232]),
    ("pavement", [244, 35, 232]),
    ("building", [70, 70, 70]),
    ("wall", [102, 102, 156]),
    ("fence", [190, 153, 153]),
    ("pole", [153, 153, 153]),
    ("traffic light", [250, 170, 30]),
    ("traffic sign", [220, 220, 0]),
    ("sign", [220, 220, 0]),
    ("signsymbol", [220, 220, 0]),
    ("vegetation", [107, 142, 35]),
    ("tree", [107, 142, 35]),
    ("terrain", [152, 251, 152]),
    ("grass", [152, 251, 152]),
    ("sky", [70, 130, 180]),
    ("person", [220, 20, 60]),
    ("pedestrian", [220, 20, 60]),
    ("rider", [255, 0, 0]),
    ("bicyclist", [255, 0, 0]),
    ("car", [0, 0, 142]),
    ("truck", [0, 0, 70]),
    ("bus", [0, 60, 100]),
    ("train", [0, 80, 100]),
    ("motorcycle", [0, 0, 230]),
    ("motorbike", [0, 0, 230]),
    ("bicycle", [119, 11, 32]),
    ("background", [40, 40, 48]),
    ("unlabelled", [40, 40, 48]),
    ("unlabeled", [40, 40, 48]),
    ("other", [40, 40, 48]),
    ("void", [0, 0, 0]),
];

/// Hue in degrees, then lightness and chroma of OKLCH: three rings, each a golden angle apart.
const RINGS: [(f32, f32); 3] = [(0.72, 0.14), (0.55, 0.15), (0.85, 0.09)];

/// One colour a class, all different. A class keeps its colour when others come after it.
pub fn of(classes: &[String]) -> Vec<[u8; 3]> {
    let mut colors: Vec<[u8; 3]> = Vec::with_capacity(classes.len());
    let mut sequence = (0..).map(|i: u16| {
        let (lightness, chroma) = RINGS[usize::from(i / 7 % 3)];
        oklch(lightness, chroma, 29.0 + 137.508 * f32::from(i))
    });
    for class in classes {
        let name = class.to_lowercase().replace(['_', '-'], " ");
        let known = STREET.iter().find(|(known, _)| *known == name).map(|(_, color)| *color);
        let color = known.filter(|color| !colors.contains(color)).unwrap_or_else(|| {
            // Far enough from what is taken to be told apart; after many classes any new one does.
            let near =
                |a: &[u8; 3], b: &[u8; 3], d| a.iter().zip(b).all(|(a, b)| a.abs_diff(*b) < d);
            let distance = if colors.len() < 24 { 30 } else { 1 };
            sequence
                .find(|new| !colors.iter().any(|taken| near(taken, new, distance)))
                .expect("the sequence has thousands of colours")
        });
        colors.push(color);
    }
    colors
}

/// sRGB of a colour in OKLCH (Ottosson 2020), clipped to the gamut; hue in degrees.
fn oklch(lightness: f32, chroma: f32, hue: f32) -> [u8; 3] {
    let (a, b) = (chroma * hue.to_radians().cos(), chroma * hue.to_radians().sin());
    let cube = |v: f32| v * v * v;
    let l = cube(lightness + 0.396_337_78 * a + 0.215_803_76 * b);
    let m = cube(lightness - 0.105_561_346 * a - 0.063_854_17 * b);
    let s = cube(lightness - 0.089_484_18 * a - 1.291_485_5 * b);
    let linear = [
        4.076_741_7 * l - 3.307_711_6 * m + 0.230_969_94 * s,
        -1.268_438 * l + 2.609_757_4 * m - 0.341_319_38 * s,
        -0.004_196_086_3 * l - 0.703_418_6 * m + 1.707_614_7 * s,
    ];
    linear.map(|v| {
        let v = v.clamp(0.0, 1.0);
        let encoded = if v <= 0.003_130_8 { 12.92 * v } else { 1.055 * v.powf(1.0 / 2.4) - 0.055 };
        (255.0 * encoded).round() as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_differ_and_do_not_depend_on_later_classes() {
        let names: Vec<String> = (0..255).map(|i| format!("class {i}")).collect();
        let all = of(&names);
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), 255);
        assert_eq!(of(&names[..21]), all[..21]);
    }

    #[test]
    fn street_classes_look_as_usual_but_never_alike() {
        let names = ["sky", "Pavement", "traffic_light", "sidewalk"].map(String::from);
        let colors = of(&names);
        assert_eq!(colors[..3], [[70, 130, 180], [244, 35, 232], [250, 170, 30]]);
        assert!(!colors[..3].contains(&colors[3]));
    }
}

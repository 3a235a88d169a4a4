//! Colours of classes: those of Cityscapes where the name is one of street scenes, else a sequence of distinct
//! ones; in both cases told apart by colour-blind eyes as well.

use super::mix;

/// What Cityscapes (and CamVid, whose names differ) shows a class in.
const STREET: [(&str, [u8; 3]); 33] = [
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
    ("unknown object", [236, 28, 36]),
];

/// Two classes of one network are at least this far apart (CIE 1976 colour difference, Delta E) for normal
/// vision, deuteranopia and protanopia, as long as there is such a colour: for about a dozen classes. Twenty are
/// about 12 apart.
const DISTANCE: f32 = 18.0;

/// Lightness and chroma of OKLCH of five rings of seven colours; hues a golden angle apart.
const RINGS: [(f32, f32); 5] =
    [(0.72, 0.14), (0.45, 0.12), (0.88, 0.09), (0.60, 0.16), (0.30, 0.09)];

/// Colours of the sequence that are tried for a class.
const TRIED: usize = 105;

/// How much white or black the shades of a usual colour hold.
const SHADES: [f32; 5] = [0.15, 0.3, 0.45, 0.6, 0.75];

/// One colour per class, all different. A class keeps its colour when others come after it.
///
/// The first that is 18 Delta E away from all before it: the usual one, its shades, the sequence; else the one that
/// is farthest from them.
pub fn of(classes: &[String]) -> Vec<[u8; 3]> {
    let sequence: Vec<Seen> = (0..TRIED).map(|i| Seen::new(in_sequence(i))).collect();
    let mut taken: Vec<Seen> = Vec::with_capacity(classes.len());
    for class in classes {
        let name = class.to_lowercase().replace(['_', '-'], " ");
        let usual = STREET.iter().find(|(known, _)| *known == name).map(|(_, color)| *color);
        let shades = usual.into_iter().flat_map(|usual| {
            let shade = move |share| [255, 0].map(|end| usual.map(|v| mix(v, end, share)));
            std::iter::once(usual).chain(SHADES.into_iter().flat_map(shade)).map(Seen::new)
        });
        let mut best: Option<(f32, Seen)> = None;
        for candidate in shades.chain(sequence.iter().copied()) {
            let least = taken.iter().map(|t| t.distance(&candidate)).fold(f32::INFINITY, f32::min);
            if best.is_none_or(|(distance, _)| least > distance) {
                best = Some((least, candidate));
            }
            if least >= DISTANCE {
                break;
            }
        }
        let new = best.filter(|(distance, _)| *distance > 0.0).map(|(_, color)| color);
        taken.push(new.unwrap_or_else(|| {
            let fresh = |color: &[u8; 3]| taken.iter().all(|t| t.rgb != *color);
            let color = (TRIED..).map(in_sequence).find(fresh);
            Seen::new(color.expect("the sequence has thousands of colours"))
        }));
    }
    taken.iter().map(|t| t.rgb).collect()
}

fn in_sequence(i: usize) -> [u8; 3] {
    let (lightness, chroma) = RINGS[i / 7 % RINGS.len()];
    oklch(lightness, chroma, 29.0 + 137.508 * i as f32)
}

/// A colour and how it looks: CIELAB (D65) for normal vision, deuteranopia and protanopia.
#[derive(Clone, Copy)]
struct Seen {
    rgb: [u8; 3],
    lab: [[f32; 3]; 3],
}

/// What the eye makes of linear RGB: unchanged, then Machado, Oliveira and Fernandes 2009, severity 1.
const VISIONS: [[[f32; 3]; 3]; 3] = [
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    [
        [0.367_322, 0.860_646, -0.227_968],
        [0.280_085, 0.672_501, 0.047_413],
        [-0.011_82, 0.042_94, 0.968_881],
    ],
    [
        [0.152_286, 1.052_583, -0.204_868],
        [0.114_503, 0.786_281, 0.099_216],
        [-0.003_882, -0.048_116, 1.051_998],
    ],
];

impl Seen {
    fn new(rgb: [u8; 3]) -> Self {
        let linear = rgb.map(|v| {
            let v = f32::from(v) / 255.0;
            if v <= 0.040_45 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
        });
        Seen { rgb, lab: VISIONS.map(|vision| lab(product(&vision, linear))) }
    }

    /// The least difference of three kinds of eyes.
    fn distance(&self, other: &Seen) -> f32 {
        let difference = |(a, b): (&[f32; 3], &[f32; 3])| {
            a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt()
        };
        self.lab.iter().zip(&other.lab).map(difference).fold(f32::INFINITY, f32::min)
    }
}

fn product(matrix: &[[f32; 3]; 3], v: [f32; 3]) -> [f32; 3] {
    matrix.map(|row| row.iter().zip(v).map(|(m, v)| m * v).sum())
}

/// CIELAB of linear sRGB, clipped to the gamut.
fn lab(linear: [f32; 3]) -> [f32; 3] {
    const XYZ: [[f32; 3]; 3] = [
        [0.412_456_4, 0.357_576_1, 0.180_437_5],
        [0.212_672_9, 0.715_152_2, 0.072_175],
        [0.019_333_9, 0.119_192, 0.950_304_1],
    ];
    const WHITE: [f32; 3] = [0.950_47, 1.0, 1.088_83];
    let xyz = product(&XYZ, linear.map(|v| v.clamp(0.0, 1.0)));
    let f = |t: f32| if t > 0.008_856 { t.cbrt() } else { (903.3 * t + 16.0) / 116.0 };
    let [x, y, z] = [0, 1, 2].map(|i| f(xyz[i] / WHITE[i]));
    [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
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
        assert_eq!([colors[0], colors[2]], [[70, 130, 180], [250, 170, 30]]);
        // Deuteranopes see the usual pavement as sky: a lighter shade.
        assert_eq!(colors[1], [244, 35, 232].map(|v| mix(v, 255, 0.3)));
        assert!(!colors[..3].contains(&colors[3]));
    }

    /// The least difference between two of the classes, for any eyes.
    fn least(names: &[&str]) -> f32 {
        let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        let seen: Vec<Seen> = of(&names).into_iter().map(Seen::new).collect();
        let pairs =
            seen.iter().enumerate().flat_map(|(i, a)| seen[..i].iter().map(move |b| (a, b)));
        pairs.map(|(a, b)| a.distance(b)).fold(f32::INFINITY, f32::min)
    }

    #[test]
    fn differences_are_those_of_cie_1976() {
        // Delta E of the usual colours of fence and pole by these formulas in double: normal, deuteranopia, protanopia.
        let [fence, pole] = [[190, 153, 153], [153, 153, 153]].map(Seen::new);
        let found = [0, 1, 2].map(|v| {
            let square = |i: usize| (fence.lab[v][i] - pole.lab[v][i]).powi(2);
            (square(0) + square(1) + square(2)).sqrt()
        });
        for (found, expected) in found.into_iter().zip([15.1, 8.0, 3.4]) {
            assert!((found - expected).abs() < 0.06, "{found} {expected}");
        }
    }

    #[test]
    fn colour_blind_eyes_tell_classes_apart() {
        let camvid = [
            "sky",
            "building",
            "pole",
            "road",
            "pavement",
            "tree",
            "signsymbol",
            "fence",
            "car",
            "pedestrian",
            "bicyclist",
        ];
        let cityscapes = [
            "road",
            "sidewalk",
            "building",
            "wall",
            "fence",
            "pole",
            "traffic light",
            "traffic sign",
            "vegetation",
            "terrain",
            "sky",
            "person",
            "rider",
            "car",
            "truck",
            "bus",
            "train",
            "motorcycle",
            "bicycle",
        ];
        let others: Vec<String> = (0..21).map(|i| format!("class {i}")).collect();
        let others: Vec<&str> = others.iter().map(String::as_str).collect();
        let found = [least(&camvid), least(&cityscapes), least(&others)];
        let wanted = [DISTANCE, 17.0, 12.0];
        assert!(found.iter().zip(wanted).all(|(found, wanted)| *found >= wanted), "{found:?}");
    }
}

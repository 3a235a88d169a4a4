//! The page of the reports: what it is made of, and how it behaves in a browser.

mod browser;
mod mouse;

use ddu::data::Image;
use ddu::ops::Size;
use ddu::report::page::*;

const SIZE: Size = Size { h: 48, w: 64 };
/// Limits of the mask at first.
const ENTROPY: f32 = 1.25;
const DENSITY: f32 = -41.0;

fn classes() -> Vec<(String, [u8; 3])> {
    vec![("road <&> \"lane\"".into(), [128, 64, 128]), ("sky".into(), [70, 130, 180])]
}

/// Maps whose values tell where they are; one pixel of each is not finite.
fn panel(title: &str, shift: usize) -> Panel {
    let pixels = || (0..SIZE.h).flat_map(|y| (0..SIZE.w).map(move |x| (y, x)));
    let entropy = pixels().map(|(y, _)| 2.0 * ((y + shift) % SIZE.h) as f32 / 47.0);
    let density = pixels().map(|(_, x)| -100.0 + 2.0 * x as f32);
    let class = pixels().map(|(y, x)| {
        if y < 20 {
            1
        } else if x == 63 {
            255
        } else {
            0
        }
    });
    let rgb = pixels().flat_map(|(y, x)| [3 * x as u8, 5 * y as u8, 90]);
    let (mut entropy, mut density): (Vec<f32>, Vec<f32>) = (entropy.collect(), density.collect());
    entropy[5] = f32::NAN;
    density[SIZE.pixels() - 1] = f32::NEG_INFINITY;
    let layers = vec![Map::Classes(class.collect()), Map::Scalar(entropy), Map::Scalar(density)];
    let image = Image { size: SIZE, rgb: rgb.collect() };
    Panel::new(title.into(), format!("note of {title}"), &image, layers)
}

fn viewer() -> Viewer {
    let scalar = |name: &str, bright, range, quantiles| Layer {
        name: name.into(),
        kind: Kind::Scalar(Scalar { unit: "nats".into(), bright, range, quantiles }),
    };
    // A sample from -80 to 0.
    let quantiles = (0..=100).map(|i| -80.0 + 0.8 * i as f32).collect();
    Viewer {
        layers: vec![
            Layer { name: "Predicted class".into(), kind: Kind::Classes(classes()) },
            scalar("Softmax entropy", Bright::High, [0.0, 2.0], None),
            scalar("Log-density", Bright::Low, [-100.0, 20.0], Some(quantiles)),
        ],
        thresholds: Some(Thresholds {
            ambiguous: Threshold { layer: 1, value: ENTROPY },
            unfamiliar: Some(Threshold { layer: 2, value: DENSITY }),
        }),
        panels: vec![panel("first.png", 0), panel("second.png", 11)],
    }
}

fn page() -> Page {
    let wave = |phase: f64| {
        (0..=60).map(move |i| [f64::from(i), (f64::from(i) / 9.0 + phase).sin()]).collect()
    };
    let line = |i: u32| Line {
        name: format!("line {i}"),
        shape: Shape::Line,
        points: wave(f64::from(i) / 3.0),
    };
    let hill = |name: &str, middle: f64| Line {
        name: name.into(),
        shape: Shape::Area,
        points: (0..=60)
            .map(|i| [f64::from(i), (-(f64::from(i) - middle).powi(2) / 90.0).exp()])
            .collect(),
    };
    let chart = |title: &str, lines| Chart {
        title: title.into(),
        x: Axis { label: "x (pixels)".into(), range: None },
        y: Axis { label: "share".into(), range: Some([-1.0, 1.0]) },
        lines,
    };
    let many: Vec<Line> = (0..9).map(line).collect();
    let names = || (0..5).map(|i| format!("class {i}")).collect::<Vec<_>>();
    let interval = |name: &str, value, interval| Interval { name: name.into(), value, interval };
    let blocks = vec![
        Block::Text("Words with <b>no</b> markup & \"quotes\".".into()),
        Block::Charts(Charts { caption: "Nine lines.".into(), charts: vec![chart("Waves", many)] }),
        Block::Charts(Charts {
            caption: "Histograms by predicted class.".into(),
            charts: ["road", "sky", "car"]
                .map(|t| chart(t, vec![hill("known", 35.0), hill("unknown", 20.0)]))
                .into(),
        }),
        Block::Intervals(Intervals {
            caption: "AUROC with 95 % intervals.".into(),
            axis: Axis { label: "AUROC".into(), range: None },
            rows: vec![
                interval("entropy", 0.886, Some([0.85, 0.91])),
                interval("clipped-entropy", 0.911, Some([0.88, 0.93])),
                interval("density", 0.527, None),
            ],
            reference: Some(("chance".into(), 0.5)),
        }),
        Block::Matrix(Matrix {
            caption: "Distances.".into(),
            rows: names(),
            columns: names(),
            values: (0..25).map(|i| (i != 7).then_some(f64::from(i) / 4.0)).collect(),
            decimals: 1,
        }),
        Block::Table(Table {
            caption: "A table.".into(),
            header: ["Name", "Value"].map(String::from).into(),
            rows: vec![["a <b>", "1"].map(String::from).into()],
        }),
        Block::Viewer(viewer()),
    ];
    Page {
        title: "A page <for> \"tests\"".into(),
        lead: "What a page can show.".into(),
        sections: vec![Section { title: "All of it".into(), blocks }],
        notes: vec!["ddu test".into()],
    }
}

fn written(page: &Page) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("page.html");
    page.write(&path).unwrap();
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn it_needs_no_other_file_and_text_stays_text() {
    let text = written(&page());
    assert!(text.starts_with("<!doctype html>\n<html lang=\"en\">"));
    assert!(
        !text.contains("http:") && !text.contains("https:") && text.contains("default-src 'none'")
    );
    assert_eq!(text.matches("src=").count(), text.matches("src=\"data:image/").count());
    assert!(
        !text.contains("<b>no</b>")
            && text.contains("&lt;b&gt;no&lt;/b&gt; markup &amp; &quot;quotes&quot;")
    );
    assert!(!text.contains("a <b>") && !text.contains("<for>") && !text.contains("road <&>"));
    // Pictures say what they are, and have their size before they are there.
    for picture in text.split("<img ").skip(1) {
        let tag = picture.split_once("src=").unwrap().0;
        assert!(
            tag.contains("alt=\"") && tag.contains("width=\"") && tag.contains("height=\""),
            "{tag}"
        );
    }
    assert_eq!(text.matches("<th ").count(), text.matches("<th scope=").count());
    assert_eq!(
        text.matches("<svg class=\"chart").count(),
        text.matches("role=\"img\" aria-label").count()
    );
}

#[test]
fn large_images_are_thinned_and_their_values_stay_values() {
    let size = Size::new(2000, 1501);
    let image = Image { size, rgb: vec![7; 3 * size.pixels()] };
    let values: Vec<f32> = (0..size.pixels()).map(|i| i as f32).collect();
    let panel = Panel::new("a".into(), String::new(), &image, vec![Map::Scalar(values)]);
    let (n, small) = (panel.stride, panel.image.size);
    assert!(small.pixels() <= 480 * 360 && n == 5, "{small} {n}");
    let Map::Scalar(kept) = &panel.layers[0] else { panic!() };
    assert_eq!(kept[small.w + 2], (n * size.w + 2 * n) as f32);
    assert_eq!(kept.len(), small.pixels());
    assert!(panel.image.rgb.iter().all(|v| *v == 7));
}

/// A frame that only full of noise could fill: what stands in it hardly compresses.
#[test]
fn twelve_panels_stay_below_15_mb() {
    let size = Size::new(360, 480);
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    // Noise on a grid of 1/8, upsampled, as maps are.
    let mut map = || {
        let grid: Vec<f32> = (0..47 * 62).map(|_| 2.0 * noise()).collect();
        let at = |y: usize, x: usize| grid[y * 62 + x];
        let value = |i: usize| {
            let (y, x) = (i / size.w, i % size.w);
            let (r, c, fy, fx) = (y / 8, x / 8, (y % 8) as f32 / 8.0, (x % 8) as f32 / 8.0);
            (at(r, c) * (1.0 - fx) + at(r, c + 1) * fx) * (1.0 - fy)
                + (at(r + 1, c) * (1.0 - fx) + at(r + 1, c + 1) * fx) * fy
        };
        (0..size.pixels()).map(value).collect::<Vec<f32>>()
    };
    let mut panel = |i: usize| {
        let layers = [map(), map(), map()];
        let rgb = layers[0].iter().zip(&layers[1]).zip(&layers[2]);
        let rgb = rgb.flat_map(|((a, b), c)| [a, b, c].map(|v| (v * 127.0) as u8)).collect();
        let class = layers[0].iter().map(|v| u8::from(*v > 1.0)).collect();
        let image = Image { size, rgb };
        let maps = [vec![Map::Classes(class)], layers.map(Map::Scalar).into()].concat();
        Panel::new(format!("{i}"), String::new(), &image, maps)
    };
    let mut viewer = viewer();
    viewer.panels = (0..12).map(&mut panel).collect();
    viewer.layers.push(viewer.layers[1].clone());
    let section = Section { title: String::new(), blocks: vec![Block::Viewer(viewer)] };
    let bytes = written(&Page { sections: vec![section], ..Page::default() }).len();
    assert!(bytes < 15_000_000, "{bytes}");
}

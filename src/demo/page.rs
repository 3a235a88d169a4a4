//! Writes what the demo found: pictures of the first scenes, a contact sheet, `summary.json`, and
//! `index.html`, one page that needs no other file.

use std::path::Path;

use super::measure::Summary;
use super::{Seen, scenes};
use crate::data::{Image, write_rgb_png};
use crate::error::Result;
use crate::report::digits::{number, percent};
use crate::report::overlay::{Scale, class_map, scalar_map};
use crate::report::page::{
    Block, Bright, Kind, Layer, Map, Page, Panel, Scalar, Section, Table, Threshold, Thresholds,
    Viewer,
};
use crate::report::sheet::{Column, contact_sheet};
use crate::report::{json, palette};
use crate::score::{Score, Worry};

pub fn write(folder: &Path, summary: &Summary, seen: &[Seen], density: [f32; 2]) -> Result<()> {
    let mut names: Vec<String> = scenes::CLASSES.map(String::from).into();
    let known = names.len();
    names.push("unknown object".into());
    let colors = palette::of(&names);

    let top = (known as f32).ln();
    let entropy =
        Scale { range: [0.0, top], gradient: colorous::INFERNO, label: "softmax entropy (nats)" };
    let [low, high] = density;
    // Bright where the network is unsure, as the entropy is: the low end last.
    let density = Scale {
        range: [high, low],
        gradient: colorous::VIRIDIS,
        label: "unfamiliar = low log-density (nats)",
    };
    let mut rows = Vec::new();
    for (i, seen) in seen.iter().enumerate() {
        let image = &seen.scene.image;
        // All unknown classes are one to the network: none.
        let label: Vec<u8> = seen.scene.label.iter().map(|&l| l.min(known as u8)).collect();
        let classes = |title, label: &[u8]| class_map(title, image, label, &names, &colors);
        let pictures = [
            ("scene", image.clone()),
            ("label", classes("Label", &label)),
            ("prediction", classes("Prediction", &seen.maps.label)),
            ("entropy", scalar_map("Scene", image, &seen.maps.entropy, &entropy)),
            ("density", scalar_map("Scene", image, &seen.density, &density)),
        ];
        for (name, picture) in &pictures {
            write_rgb_png(&folder.join(format!("{:02}.{name}.png", i + 1)), picture)?;
        }
        let flat = |label: &[u8]| Image {
            size: image.size,
            rgb: label.iter().flat_map(|&l| colors[usize::from(l)]).collect(),
        };
        rows.push(vec![
            image.clone(),
            flat(&label),
            flat(&seen.maps.label),
            entropy.paint(image.size, &seen.maps.entropy),
            density.paint(image.size, &seen.density),
        ]);
    }
    let column = |title, scale| Column { title, scale };
    let all =
        |map: fn(&Seen) -> &[f32]| -> Vec<f32> { seen.iter().flat_map(map).copied().collect() };
    let (entropies, densities) = (all(|s| &s.maps.entropy), all(|s| &s.density));
    let columns = [
        column("Scene, not seen in training", None),
        column("Label", None),
        column("Predicted class", None),
        column("Entropy: what is ambiguous", Some((&entropy, &entropies))),
        column("Density: what is unfamiliar", Some((&density, &densities))),
    ];
    let legend: Vec<_> = names.into_iter().zip(colors).collect();
    let sheet = folder.join("sheet.png");
    write_rgb_png(&sheet, &contact_sheet(&columns, &rows, &legend))?;
    json::write(&folder.join("summary.json"), summary)?;
    let viewer = viewer(seen, &legend, [entropy.range, density.range]);
    page(summary, viewer).write(&folder.join("index.html"))
}

/// The scenes, to look into.
fn viewer(seen: &[Seen], classes: &[(String, [u8; 3])], ranges: [[f32; 2]; 2]) -> Viewer {
    let [entropy, [high, low]] = ranges;
    let names = |name: &str| Layer { name: name.into(), kind: Kind::Classes(classes.to_vec()) };
    let scalar = |score: Score, range| {
        let info = score.info();
        let bright = match info.worry {
            Worry::High => Bright::High,
            Worry::Low => Bright::Low,
        };
        let kind = Kind::Scalar(Scalar { unit: info.unit.into(), bright, range, quantiles: None });
        Layer { name: info.label.into(), kind }
    };
    let layers = vec![
        names("Label"),
        names("Predicted class"),
        scalar(Score::Entropy, entropy),
        scalar(Score::Density, [low, high]),
    ];
    let unknown = (classes.len() - 1) as u8;
    let panels = seen.iter().enumerate().map(|(i, seen)| {
        let label = seen.scene.label.iter().map(|&l| l.min(unknown)).collect();
        let maps = vec![
            Map::Classes(label),
            Map::Classes(seen.maps.label.clone()),
            Map::Scalar(seen.maps.entropy.clone()),
            Map::Scalar(seen.density.clone()),
        ];
        Panel::new(format!("Scene {}", i + 1), String::new(), &seen.scene.image, maps)
    });
    // The middle of the bars: entropies of two classes that are about as likely, and densities below
    // all but a hundredth of the fitted sample.
    let thresholds = Thresholds {
        ambiguous: Threshold { layer: 2, value: std::f32::consts::LN_2 },
        unfamiliar: Some(Threshold { layer: 3, value: (low + high) / 2.0 }),
    };
    Viewer { layers, thresholds: Some(thresholds), panels: panels.collect() }
}

fn page(summary: &Summary, viewer: Viewer) -> Page {
    let lead = format!(
        "A quarter-width DeepLab-v3+ that ships with ddu, on {} street scenes that it has never seen. \
         Objects of classes that no training scene held stand in them. The density was fitted to {} \
         pixels of {} training scenes.",
        summary.test_scenes, summary.fit_pixels, summary.fit_scenes
    );
    let zones = summary.zones.iter().map(|zone| {
        vec![
            zone.name.into(),
            zone.pixels.to_string(),
            percent(zone.accuracy),
            number(zone.entropy_mean, 3),
            number(zone.log_density_median.map(f64::from), 1),
        ]
    });
    let detections = [("errors", &summary.errors), ("unknown objects", &summary.unknown)];
    let detections = detections.iter().flat_map(|(what, found)| {
        found.rows().map(move |(name, d)| {
            let values = [d.auroc, d.average_precision, d.fpr95].map(|value| number(value, 3));
            [vec![format!("{what} by {name}")], values.to_vec()].concat()
        })
    });
    let strangers = summary.strangers.iter().map(|stranger| {
        let aurocs =
            [stranger.entropy_auroc, stranger.density_auroc, stranger.relative_density_auroc];
        let name = vec![stranger.name.into(), stranger.pixels.to_string()];
        [name, aurocs.map(|value| number(value, 3)).to_vec()].concat()
    });
    let known = format!(
        "Pixel accuracy {}, mean IoU {}.",
        percent(summary.pixel_accuracy),
        percent(summary.mean_iou)
    );
    let iou = summary.iou.iter().map(|(name, iou)| vec![name.clone(), percent(*iou)]);
    let section = |title: &str, blocks| Section { title: title.into(), blocks };
    let look = "Ambiguous is where the entropy is above that of two classes that are equally likely; \
                unfamiliar where the log-density is below nearly all of the fitted sample. Move the \
                sliders to draw the lines elsewhere.";
    let header = ["Pixels", "Count", "Accuracy", "Mean entropy", "Median log-density"];
    let zones = table("Both uncertainties, in nats, by place", &header, zones);
    let detections =
        table("How well a score finds what", &["Found", "AUROC", "AP", "FPR95"], detections);
    let header = ["Class", "Pixels", "Entropy", "Density", "Relative density"];
    let strangers = table("AUROC of each score for pixels of an unknown class", &header, strangers);
    let iou = table("Intersection over union by class", &["Class", "IoU"], iou);
    Page {
        title: "ddu demo".into(),
        lead,
        sections: vec![
            section("What was found", vec![Block::List(summary.findings.clone())]),
            section("Scenes", vec![Block::Text(look.into()), Block::Viewer(viewer)]),
            section("Where", vec![zones]),
            section("Detection", vec![detections]),
            section("Unknown classes", vec![strangers]),
            section("Known classes", vec![Block::Text(known), iou]),
        ],
        notes: vec![format!("Model {}", summary.model_sha256)],
    }
}

fn table(caption: &str, header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Block {
    let header = header.iter().map(|title| title.to_string()).collect();
    Block::Table(Table { caption: caption.into(), header, rows: rows.collect() })
}

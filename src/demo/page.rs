//! Writes what the demo found: pictures of the first scenes, a contact sheet, `summary.json`, and
//! `index.html`, one page that needs no other file.

use std::fmt::Write;
use std::path::Path;

use super::measure::Summary;
use super::{Seen, scenes};
use crate::data::{Image, write_atomic, write_rgb_png};
use crate::error::{Error, Result};
use crate::report::overlay::{Scale, class_map, scalar_map};
use crate::report::sheet::{Column, contact_sheet};
use crate::report::{json, palette};

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
    let sheet = std::fs::read(&sheet).map_err(|e| Error::io(&sheet, "read", e))?;
    let page = html(summary, &base64(&sheet));
    write_atomic(&folder.join("index.html"), |file| {
        std::io::Write::write_all(file, page.as_bytes())
    })
}

fn html(summary: &Summary, sheet: &str) -> String {
    let mut page = String::from(HEAD);
    let mut put = |text: std::fmt::Arguments| {
        page.write_fmt(text).expect("a String takes everything");
        page.push('\n');
    };
    put(format_args!(
        "<h1>ddu demo</h1>\n<p>A quarter-width DeepLab-v3+ that ships with ddu, on {} street scenes \
         that it has never seen. Objects of classes that no training scene held stand in them. The \
         density was fitted to {} pixels of {} training scenes.</p>\n<ul>",
        summary.test_scenes, summary.fit_pixels, summary.fit_scenes
    ));
    for finding in &summary.findings {
        put(format_args!("<li>{finding}</li>"));
    }
    put(format_args!(
        "</ul>\n<div class=\"wide\" tabindex=\"0\"><img alt=\"A row per scene: the scene, its label, \
         the predicted class, the entropy (bright where ambiguous) and the density (bright where \
         unfamiliar)\" src=\"data:image/png;base64,{sheet}\"></div>\n<h2>Where</h2>"
    ));
    let zones = summary.zones.iter().map(|zone| {
        vec![
            zone.name.into(),
            zone.pixels.to_string(),
            percent(zone.accuracy),
            number(zone.entropy_mean, 3),
            number(zone.log_density_median.map(f64::from), 1),
        ]
    });
    let header = ["Pixels", "Count", "Accuracy", "Mean entropy", "Median log-density"];
    put(format_args!("{}", table("Both uncertainties, in nats, by place", &header, zones)));
    put(format_args!("<h2>Detection</h2>"));
    let detections = [("errors", &summary.errors), ("unknown objects", &summary.unknown)];
    let detections = detections.iter().flat_map(|(what, found)| {
        found.rows().map(move |(name, detection)| {
            let [auroc, ap, fpr95] = match detection {
                Some(d) => [Some(d.auroc), Some(d.average_precision), Some(d.fpr95)],
                None => [None; 3],
            }
            .map(|value| number(value, 3));
            vec![format!("{what} by {name}"), auroc, ap, fpr95]
        })
    });
    let header = ["Found", "AUROC", "AP", "FPR95"];
    put(format_args!("{}", table("How well a score finds what", &header, detections)));
    put(format_args!("<h2>Unknown classes</h2>"));
    let strangers = summary.strangers.iter().map(|stranger| {
        let [entropy, density, relative] =
            [stranger.entropy_auroc, stranger.density_auroc, stranger.relative_density_auroc]
                .map(|value| number(value, 3));
        vec![stranger.name.into(), stranger.pixels.to_string(), entropy, density, relative]
    });
    let header = ["Class", "Pixels", "Entropy", "Density", "Relative density"];
    let caption = "AUROC of each score for pixels of an unknown class";
    put(format_args!("{}", table(caption, &header, strangers)));
    put(format_args!(
        "<h2>Known classes</h2>\n<p>Pixel accuracy {}, mean IoU {}.</p>",
        percent(summary.pixel_accuracy),
        percent(summary.mean_iou)
    ));
    let iou = summary.iou.iter().map(|(name, iou)| vec![name.clone(), percent(*iou)]);
    put(format_args!("{}", table("Intersection over union by class", &["Class", "IoU"], iou)));
    put(format_args!("<p class=\"model\">Model {}</p>\n</html>", summary.model_sha256));
    page
}

/// A table whose first column heads its rows.
fn table(caption: &str, header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let cell = |text: &str| format!("<th scope=\"col\">{text}</th>");
    let header: String = header.iter().map(|text| cell(text)).collect();
    let row = |cells: Vec<String>| {
        let values: String = cells[1..].iter().map(|text| format!("<td>{text}</td>")).collect();
        format!("<tr><th scope=\"row\">{}</th>{values}</tr>\n", cells[0])
    };
    let rows: String = rows.map(row).collect();
    format!(
        "<div class=\"wide\" tabindex=\"0\"><table><caption>{caption}</caption>\n\
         <thead><tr>{header}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>"
    )
}

/// Colours by the reader's scheme; what is wider than the window scrolls by itself.
const HEAD: &str = "<!doctype html>
<html lang=\"en\"><meta charset=\"utf-8\"><title>ddu demo</title>
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">
<meta name=\"color-scheme\" content=\"light dark\">
<style>
:root { color-scheme: light dark; --text: #262626; --paper: #fff; --line: #ddd; --faint: #666 }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e4e4; --paper: #161616; --line: #444; --faint: #a0a0a0 }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--paper);
  max-width: 96rem; margin: 2rem auto; padding: 0 1rem }
.wide { overflow-x: auto }
img { display: block; width: 100%; min-width: 60rem }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; font-variant-numeric: tabular-nums }
caption { text-align: left; color: var(--faint); padding-bottom: 0.3rem }
th, td { text-align: right; padding: 0.15rem 0.9rem; border-bottom: 1px solid var(--line) }
th { font-weight: 600 }
tbody th { font-weight: 400 }
th:first-child { text-align: left; padding-left: 0 }
.model { color: var(--faint); overflow-wrap: anywhere }
</style>
";
fn number(value: Option<f64>, decimals: usize) -> String {
    value.map_or("-".into(), |v| format!("{v:.decimals$}"))
}

fn percent(value: Option<f64>) -> String {
    value.map_or("-".into(), |v| format!("{:.2} %", 100.0 * v))
}

/// RFC 4648, padded.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i) & 63) as usize];
            text.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_is_that_of_rfc_4648() {
        let vectors = ["", "f", "fo", "foo", "foob", "fooba", "foobar"];
        let expected = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
        assert_eq!(vectors.map(|v| super::base64(v.as_bytes())), expected);
    }
}

//! The viewer: images to look into pixel by pixel. Here its frame and its data; `viewer.js` makes it move.

use serde::Serialize;

use super::figures::{decimals, ends, figures, gradient, scale};
use super::html::{escape, put};
use super::{Bright, Kind, Layer, Map, Panel, Threshold, Viewer, embed};
use crate::report::digits;

/// Certain, ambiguous, unfamiliar: names and colours of the mask, in the viewer and in mask files. They
/// differ in lightness as well, and for colour-blind eyes.
pub const MASK: [(&str, [u8; 3]); 3] =
    [("certain", [60, 75, 87]), ("ambiguous", [230, 159, 0]), ("unfamiliar", [213, 60, 190])];

#[derive(Serialize)]
struct Data<'a> {
    layers: Vec<LayerData<'a>>,
    /// Ambiguous, unfamiliar.
    thresholds: Vec<ThresholdData>,
    mask: [[u8; 3]; 3],
    panels: Vec<PanelData<'a>>,
}

#[derive(Serialize)]
struct LayerData<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    classes: Vec<(&'a str, [u8; 3])>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scalar: Option<ScalarData<'a>>,
}

#[derive(Serialize)]
struct ScalarData<'a> {
    unit: &'a str,
    /// Values at the first and the last colour.
    first: f32,
    last: f32,
    decimals: usize,
    /// 256 RGB colours in base64.
    colors: String,
    gradient: String,
    ends: [String; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    quantiles: Option<&'a [f32]>,
}

#[derive(Serialize)]
struct ThresholdData {
    layer: usize,
    /// Whether what lies above is beyond.
    above: bool,
}

#[derive(Serialize)]
struct PanelData<'a> {
    title: &'a str,
    note: &'a str,
    height: usize,
    width: usize,
    stride: usize,
    maps: Vec<MapData>,
}

#[derive(Serialize)]
struct MapData {
    low: f32,
    step: f32,
    codes: String,
}

pub fn viewer(out: &mut String, viewer: &Viewer, id: usize) {
    viewer.panels.iter().for_each(|panel| check(viewer, panel));
    let Some(first) = viewer.panels.first() else {
        put(out, format_args!("<p>There are no images.</p>"));
        return;
    };
    let panels: Vec<PanelData> = viewer.panels.iter().map(panel_data).collect();
    let precision = precision(viewer, &panels);
    let data = Data {
        layers: viewer.layers.iter().map(layer_data).collect(),
        thresholds: sliders(viewer)
            .map(|(_, t)| ThresholdData { layer: t.layer, above: above(viewer, t) })
            .collect(),
        mask: MASK.map(|(_, color)| color),
        panels,
    };
    let colors: String =
        MASK.iter().map(|(name, [r, g, b])| format!("--{name}:rgb({r},{g},{b});")).collect();
    let json = serde_json::to_string(&data).expect("plain data").replace('<', "\\u003c");
    put(out, format_args!("<div class=\"viewer\" id=\"viewer-{id}\" style=\"{colors}\">"));
    put(out, format_args!("<script type=\"application/json\">{json}</script>"));
    put(
        out,
        format_args!(
            "<noscript><p>Looking into pixels needs scripts; the pictures below do not.</p></noscript>"
        ),
    );
    put(out, format_args!("<p class=\"problem\" hidden></p>"));
    put(
        out,
        format_args!(
            "<div class=\"pick\"><button type=\"button\" class=\"previous\" aria-label=\"Previous image\">&#8249;</button>\
             <label>Image <select class=\"image\">"
        ),
    );
    for (i, panel) in viewer.panels.iter().enumerate() {
        put(out, format_args!("<option value=\"{i}\">{}</option>", escape(&panel.title)));
    }
    put(
        out,
        format_args!(
            "</select></label><button type=\"button\" class=\"next\" aria-label=\"Next image\">&#8250;</button>\
             <span class=\"note\">{}</span></div>",
            escape(&first.note)
        ),
    );
    put(out, format_args!("<div class=\"views\">"));
    if viewer.thresholds.is_some() {
        mask_view(out, viewer, first, id);
    }
    map_view(out, viewer, first, id);
    readout(out, viewer, id);
    put(out, format_args!("</div>\n<p class=\"small\">{precision}</p>"));
    put(out, format_args!("<p class=\"spoken\" role=\"status\"></p></div>"));
    figures(out, viewer, id);
}

/// The mask and its sliders.
fn mask_view(out: &mut String, viewer: &Viewer, panel: &Panel, id: usize) {
    put(out, format_args!("<div class=\"view\"><h3>Mask</h3>"));
    canvas(out, panel, "mask", id, "The image with its ambiguous and unfamiliar pixels in colour");
    put(
        out,
        format_args!(
            "<p class=\"here\" aria-hidden=\"true\">\u{2013}</p><div class=\"shares\" aria-hidden=\"true\"><i></i><i></i><i></i></div>"
        ),
    );
    put(out, format_args!("<ul class=\"classes states\">"));
    let states = if sliders(viewer).count() == 2 { 3 } else { 2 };
    for (name, _) in &MASK[..states] {
        put(
            out,
            format_args!(
                "<li class=\"{name}\"><i style=\"background:var(--{name})\"></i>{name} <output>\u{2013}</output></li>"
            ),
        );
    }
    put(out, format_args!("</ul>"));
    for (name, threshold) in sliders(viewer) {
        let layer = &viewer.layers[threshold.layer];
        let Kind::Scalar(scalar) = &layer.kind else {
            panic!("{}: a threshold needs numbers", layer.name)
        };
        let side = if scalar.bright == Bright::High { "above" } else { "below" };
        let [low, high] = scalar.range;
        let (low, high) = (low.min(threshold.value), high.max(threshold.value));
        let step = (f64::from(high) - f64::from(low)) / 1000.0;
        // The value is on a step, or the browser would move it; both ends are reached.
        let steps = ((f64::from(threshold.value) - f64::from(low)) / step.max(1e-12)).ceil();
        let (base, top) = (f64::from(threshold.value) - steps * step, f64::from(high) + step);
        put(
            out,
            format_args!(
                "<label class=\"slider\"><span>{name}: {} {side} <output>{} {}</output>{}</span>\
                 <input type=\"range\" min=\"{base}\" max=\"{top}\" step=\"{step}\" value=\"{}\"></label>",
                escape(&lower(&layer.name)),
                digits::number(f64::from(threshold.value), decimals(scalar.range)),
                escape(&scalar.unit),
                if scalar.quantiles.is_some() { "<small>\u{2013}</small>" } else { "" },
                threshold.value
            ),
        );
    }
    put(out, format_args!("</div>"));
}

/// A map that the reader chooses, and what its colours mean.
fn map_view(out: &mut String, viewer: &Viewer, panel: &Panel, id: usize) {
    put(out, format_args!("<div class=\"view\"><h3><label>Map <select class=\"layer\">"));
    // At first the first map of numbers: the classes are in the pictures below.
    let chosen = viewer.layers.iter().position(|l| matches!(l.kind, Kind::Scalar(_))).unwrap_or(0);
    for (i, layer) in viewer.layers.iter().enumerate() {
        let selected = if i == chosen { " selected" } else { "" };
        put(out, format_args!("<option value=\"{i}\"{selected}>{}</option>", escape(&layer.name)));
    }
    put(out, format_args!("</select></label></h3>"));
    canvas(out, panel, "map", id, "The chosen map of the image");
    put(
        out,
        format_args!(
            "<div class=\"scale\"><i><b class=\"marker\"></b></i><span class=\"ends\"><b></b><span></span><b></b></span></div>\
             <ul class=\"classes present\"></ul></div>"
        ),
    );
}

fn canvas(out: &mut String, panel: &Panel, name: &str, id: usize, spoken: &str) {
    let size = panel.image.size;
    put(
        out,
        format_args!(
            "<div class=\"frame\"><canvas class=\"{name}\" width=\"{}\" height=\"{}\" tabindex=\"0\" role=\"application\" \
             aria-label=\"{spoken}\" aria-describedby=\"help-{id}\"></canvas><b class=\"cross\" hidden></b></div>",
            size.w, size.h
        ),
    );
}

fn readout(out: &mut String, viewer: &Viewer, id: usize) {
    put(out, format_args!("<div class=\"readout\"><h3>Pixel</h3><dl>"));
    put(out, format_args!("<div><dt>Place</dt><dd class=\"place\">\u{2013}</dd></div>"));
    if viewer.thresholds.is_some() {
        put(out, format_args!("<div><dt>Verdict</dt><dd class=\"verdict\">\u{2013}</dd></div>"));
    }
    for (i, layer) in viewer.layers.iter().enumerate() {
        let more = match &layer.kind {
            Kind::Scalar(scalar) if scalar.quantiles.is_some() => "<small>\u{2013}</small>",
            _ => "",
        };
        put(
            out,
            format_args!(
                "<div><dt>{}</dt><dd data-layer=\"{i}\"><span>\u{2013}</span>{more}</dd></div>",
                escape(&layer.name)
            ),
        );
    }
    put(
        out,
        format_args!(
            "</dl><p class=\"small\" id=\"help-{id}\">Point at a picture, or focus it and press the arrow keys (with Shift: 10 pixels).</p></div>"
        ),
    );
}

/// Name and threshold of each slider.
fn sliders(viewer: &Viewer) -> impl Iterator<Item = (&'static str, Threshold)> {
    let both = viewer
        .thresholds
        .map(|t| [Some(("Ambiguous", t.ambiguous)), t.unfamiliar.map(|t| ("Unfamiliar", t))]);
    both.into_iter().flatten().flatten()
}

fn above(viewer: &Viewer, threshold: Threshold) -> bool {
    matches!(&viewer.layers[threshold.layer].kind, Kind::Scalar(s) if s.bright == Bright::High)
}

fn check(viewer: &Viewer, panel: &Panel) {
    let pixels = panel.image.size.pixels();
    assert_eq!(panel.layers.len(), viewer.layers.len(), "{}: a map for each layer", panel.title);
    for map in &panel.layers {
        let len = match map {
            Map::Classes(classes) => classes.len(),
            Map::Scalar(values) => values.len(),
        };
        assert_eq!(len, pixels, "{}: maps of the image's size", panel.title);
    }
}

fn layer_data(layer: &Layer) -> LayerData<'_> {
    let name = &*layer.name;
    match &layer.kind {
        Kind::Classes(classes) => LayerData {
            name,
            classes: classes.iter().map(|(name, color)| (&**name, *color)).collect(),
            scalar: None,
        },
        Kind::Scalar(scalar) => {
            let scale = scale(scalar);
            let colors: Vec<u8> =
                (0..256).flat_map(|i| scale.gradient.eval_rational(i, 256).into_array()).collect();
            let [first, last] = scale.range;
            LayerData {
                name,
                classes: Vec::new(),
                scalar: Some(ScalarData {
                    unit: &scalar.unit,
                    first,
                    last,
                    decimals: decimals(scalar.range),
                    colors: embed::base64(&colors),
                    gradient: gradient(scalar),
                    ends: ends(scalar),
                    quantiles: scalar.quantiles.as_deref(),
                }),
            }
        }
    }
}

fn panel_data(panel: &Panel) -> PanelData<'_> {
    let size = panel.image.size;
    let map = |map: &Map| match map {
        Map::Classes(classes) => {
            let codes: Vec<u16> = classes.iter().map(|c| u16::from(*c)).collect();
            MapData { low: 0.0, step: 1.0, codes: embed::codes(size, &codes) }
        }
        Map::Scalar(values) => {
            let packed = embed::quantise(values);
            MapData { low: packed.low, step: packed.step, codes: embed::codes(size, &packed.codes) }
        }
    };
    PanelData {
        title: &panel.title,
        note: &panel.note,
        height: size.h,
        width: size.w,
        stride: panel.stride,
        maps: panel.layers.iter().map(map).collect(),
    }
}

/// How exact the embedded numbers are.
fn precision(viewer: &Viewer, panels: &[PanelData]) -> String {
    let layers = viewer.layers.iter().enumerate().filter_map(|(i, layer)| {
        let Kind::Scalar(scalar) = &layer.kind else { return None };
        let step = panels.iter().map(|panel| f64::from(panel.maps[i].step)).fold(0.0, f64::max);
        let decimals = (1.0 - (step / 2.0).max(1e-12).log10().floor()).clamp(0.0, 9.0) as usize;
        let unit = if scalar.unit.is_empty() { String::new() } else { format!(" {}", scalar.unit) };
        Some(format!(
            "{} {}{}",
            lower(&layer.name),
            digits::number(step / 2.0, decimals),
            escape(&unit)
        ))
    });
    let strides = panels.iter().map(|panel| panel.stride).max().unwrap_or(1);
    let kept = match strides {
        1 => String::new(),
        n => format!(" Of large images every n-th row and column is here, n at most {n}."),
    };
    format!(
        "Values are stored in {} equal steps from the least to the greatest of each map; they are off by at most: {}.{kept}",
        embed::TOP,
        escape(&layers.collect::<Vec<_>>().join(", "))
    )
}

/// Within a sentence: "Softmax entropy" as "softmax entropy", "MC Dropout" as it is.
fn lower(name: &str) -> String {
    let mut chars = name.chars();
    match (chars.next(), chars.next()) {
        (Some(a), Some(b)) if a.is_uppercase() && b.is_lowercase() => {
            a.to_lowercase().chain([b]).chain(chars).collect()
        }
        _ => name.into(),
    }
}

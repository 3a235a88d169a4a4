//! The images of a viewer and their maps side by side: for print, and for browsers without scripts.

use std::fmt::Write;

use image::imageops::{FilterType, resize};

use super::html::{escape, put};
use super::{Bright, Kind, Layer, Map, Panel, Scalar, Viewer, embed};
use crate::data::Image;
use crate::ops::Size;
use crate::report::digits;
use crate::report::overlay::Scale;

/// Pixels of a small picture's width, at most.
const THUMB: usize = 320;
/// Of "no label".
pub const NO_LABEL: [u8; 3] = [0; 3];

pub fn figures(out: &mut String, viewer: &Viewer, id: usize) {
    put(out, format_args!("<div class=\"figures\">"));
    legends(out, &viewer.layers);
    for (i, panel) in viewer.panels.iter().enumerate() {
        let title = escape(&panel.title);
        put(
            out,
            format_args!(
                "<section class=\"panel\" aria-label=\"{title}\"><h3>{title}</h3> \
                 <button type=\"button\" class=\"look\" data-viewer=\"viewer-{id}\" data-panel=\"{i}\" hidden>Look into it</button>\
                 <p>{}</p>\n<div class=\"thumbs\">",
                escape(&panel.note)
            ),
        );
        // The viewer draws on this picture, so that it is whole.
        let Size { h, w } = panel.image.size;
        put(
            out,
            format_args!(
                "<figure><img id=\"viewer-{id}-{i}\" width=\"{w}\" height=\"{h}\" alt=\"The image {title}\" src=\"{}\">\
                 <figcaption>Image</figcaption></figure>",
                embed::jpeg(&panel.image)
            ),
        );
        for (layer, map) in viewer.layers.iter().zip(&panel.layers) {
            let (picture, what) = picture(layer, map, panel);
            let Size { h, w } = picture.1;
            put(
                out,
                format_args!(
                    "<figure><img width=\"{w}\" height=\"{h}\" alt=\"{} of {title}{what}\" src=\"{}\">\
                     <figcaption>{}</figcaption></figure>",
                    escape(&layer.name),
                    picture.0,
                    escape(&layer.name)
                ),
            );
        }
        put(out, format_args!("</div></section>"));
    }
    put(out, format_args!("</div>"));
}

/// A small picture of a map as an address, its size, and what a listener should know of it.
fn picture(layer: &Layer, map: &Map, panel: &Panel) -> ((String, Size), String) {
    let size = panel.image.size;
    match (&layer.kind, map) {
        (Kind::Classes(classes), Map::Classes(label)) => {
            let small = thumb(size);
            let pixels = (0..small.pixels()).map(|i| {
                let (row, column) =
                    (i / small.w * size.h / small.h, i % small.w * size.w / small.w);
                let class = usize::from(label[row * size.w + column]);
                classes.get(class).map_or(NO_LABEL, |(_, color)| *color)
            });
            let image = Image { size: small, rgb: pixels.flatten().collect() };
            let most = most(label, classes)
                .map_or(String::new(), |most| format!("; most of it: {}", escape(&most)));
            ((embed::png(&image), small), most)
        }
        (Kind::Scalar(scalar), Map::Scalar(values)) => {
            let image = reduced(&scale(scalar).paint(size, values));
            ((embed::jpeg(&image), image.size), format!("; bright: {}", bright(scalar.bright)))
        }
        _ => panic!("{}: the map of {} has another kind than its layer", panel.title, layer.name),
    }
}

/// The most frequent class.
fn most(label: &[u8], classes: &[(String, [u8; 3])]) -> Option<String> {
    let mut counts = vec![0usize; 256];
    label.iter().for_each(|class| counts[usize::from(*class)] += 1);
    let (name, _) =
        classes.iter().zip(&counts).map(|((name, _), n)| (name, *n)).max_by_key(|(_, n)| *n)?;
    Some(name.clone())
}

/// "high" or "low".
pub fn bright(bright: Bright) -> &'static str {
    match bright {
        Bright::High => "high",
        Bright::Low => "low",
    }
}

/// One gradient for what is high where there is reason to worry, another for what is low.
pub fn scale(scalar: &Scalar) -> Scale<'_> {
    let [low, high] = scalar.range;
    match scalar.bright {
        Bright::High => {
            Scale { range: [low, high], gradient: colorous::INFERNO, label: &scalar.unit }
        }
        Bright::Low => {
            Scale { range: [high, low], gradient: colorous::VIRIDIS, label: &scalar.unit }
        }
    }
}

/// Decimals that tell apart a two-thousandth of a colour bar.
pub fn decimals(range: [f32; 2]) -> usize {
    let extent = f64::from(range[1]) - f64::from(range[0]);
    (-(extent / 2000.0).max(1e-9).log10()).ceil().clamp(0.0, 6.0) as usize
}

/// The ends of a colour bar.
pub fn ends(scalar: &Scalar) -> [String; 2] {
    let range = scale(scalar).range;
    range.map(|end| digits::number(f64::from(end), decimals(scalar.range).saturating_sub(1)))
}

/// From the first colour to the last.
pub fn gradient(scalar: &Scalar) -> String {
    let colors = (0..=16).map(|i| {
        let [r, g, b] = scale(scalar).gradient.eval_rational(i, 17).into_array();
        format!("#{r:02x}{g:02x}{b:02x}")
    });
    format!("linear-gradient(to right,{})", colors.collect::<Vec<_>>().join(","))
}

/// What the colours of all layers mean.
fn legends(out: &mut String, layers: &[Layer]) {
    put(out, format_args!("<div class=\"legends\">"));
    let mut shown: Vec<&[(String, [u8; 3])]> = Vec::new();
    let (classes, scalars): (Vec<_>, Vec<_>) =
        layers.iter().partition(|layer| matches!(layer.kind, Kind::Classes(_)));
    for layer in classes.into_iter().chain(scalars) {
        match &layer.kind {
            Kind::Scalar(scalar) => {
                let [first, last] = ends(scalar);
                let unit = if scalar.unit.is_empty() {
                    String::new()
                } else {
                    format!(" ({})", scalar.unit)
                };
                put(
                    out,
                    format_args!(
                        "<div class=\"scale\"><span>{}{}; bright: {}</span><i style=\"background:{}\"></i><span class=\"ends\"><b>{first}</b><b>{last}</b></span></div>",
                        escape(&layer.name),
                        escape(&unit),
                        bright(scalar.bright),
                        gradient(scalar)
                    ),
                );
            }
            Kind::Classes(classes) => {
                // Label and prediction share one legend.
                if shown.contains(&classes.as_slice()) {
                    continue;
                }
                shown.push(classes);
                out.push_str("<ul class=\"classes\">");
                for (name, [r, g, b]) in classes {
                    let _ = write!(
                        out,
                        "<li><i style=\"background:rgb({r},{g},{b})\"></i>{}</li>",
                        escape(name)
                    );
                }
                out.push_str("</ul>\n");
            }
        }
    }
    put(out, format_args!("</div>"));
}

fn thumb(size: Size) -> Size {
    if size.w <= THUMB {
        return size;
    }
    Size::new((size.h * THUMB / size.w).max(1), THUMB)
}

fn reduced(image: &Image) -> Image {
    let (size, small) = (image.size, thumb(image.size));
    if small == size {
        return image.clone();
    }
    let buffer = image::RgbImage::from_raw(size.w as u32, size.h as u32, image.rgb.clone())
        .expect("three bytes a pixel");
    let rgb = resize(&buffer, small.w as u32, small.h as u32, FilterType::Triangle).into_raw();
    Image { size: small, rgb }
}

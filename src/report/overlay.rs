//! Pictures of maps for people: the image blended with its classes and a legend, and the image
//! beside a map of numbers with a colour bar. The exact values are in the other files; here small
//! images are enlarged and large ones reduced by a whole factor.

use colorous::Gradient;

use super::canvas::Canvas;
use super::{mix, text};
use crate::data::Image;
use crate::ops::Size;

pub(super) const PAPER: [u8; 3] = [255, 255, 255];
pub(super) const INK: [u8; 3] = [38, 38, 38];
pub(super) const FAINT: [u8; 3] = [118, 118, 118];

/// Of a value that is no number.
const GRAY: [u8; 3] = [128; 3];

/// Opacity of the class colour over the image, and of the white line between classes.
const CLASS_OPACITY: f32 = 0.55;
const BORDER_OPACITY: f32 = 0.75;

/// Mean that a darker image is brought to under its classes, in 0 .. 1 of the encoded values.
const BRIGHTNESS: f32 = 0.35;

/// What the colour bar says of values without a place on it.
const NOT_FINITE: &str = "not finite";

/// How values become colours, and what the bar beside them says.
pub struct Scale<'a> {
    /// Values at the gradient's first and last colour, at the bottom and the top of the bar. The first is the
    /// greater one where low values are to be bright. What lies outside takes the colour of its end.
    pub range: [f32; 2],
    pub gradient: Gradient,
    /// Quantity and unit.
    pub label: &'a str,
}

impl Scale<'_> {
    /// The colour of a value: one of 256; gray if it is not finite.
    pub fn color(&self, value: f32) -> [u8; 3] {
        self.step(value).map_or(GRAY, |step| self.gradient.eval_rational(step, 256).into_array())
    }

    /// Values `[h, w]` in their colours.
    pub fn paint(&self, size: Size, values: &[f32]) -> Image {
        let table: Vec<[u8; 3]> =
            (0..256).map(|i| self.gradient.eval_rational(i, 256).into_array()).collect();
        let color = |value: &f32| self.step(*value).map_or(GRAY, |step| table[step]);
        Image { size, rgb: values.iter().flat_map(color).collect() }
    }

    /// Where a value lies: 0 at the first end, 1 at the last.
    pub(super) fn place(&self, value: f32) -> f32 {
        let [first, last] = self.range;
        (value - first) / (last - first)
    }

    /// At each end, what the bar says of values beyond it: how far they go.
    pub(super) fn beyond(&self, values: &[f32]) -> [Option<String>; 2] {
        let values = || values.iter().copied().filter(|v| v.is_finite());
        let [least, greatest] =
            [values().fold(f32::INFINITY, f32::min), values().fold(f32::NEG_INFINITY, f32::max)];
        let extremes =
            if self.range[0] <= self.range[1] { [least, greatest] } else { [greatest, least] };
        let [first, last] = extremes.map(|v| (self.place(v), v));
        let say = |v: f32| {
            let decimals = if v.abs() < 10.0 { 2 } else { 0 };
            format!("to {v:.decimals$}").replace('-', "\u{2212}")
        };
        [(first.0 < 0.0).then(|| say(first.1)), (last.0 > 1.0).then(|| say(last.1))]
    }

    fn step(&self, value: f32) -> Option<usize> {
        let place = self.place(value);
        // Of a range without extent no value has a place.
        (value.is_finite() && !place.is_nan())
            .then(|| (place.clamp(0.0, 1.0) * 255.0).round() as usize)
    }
}

/// `image` blended with the colour of each pixel's class, and a legend of the classes present,
/// largest first, with their share of the pixels. `label` is `[h, w]`. A dark image is brightened, so that it
/// can be seen under its classes.
pub fn class_map(
    title: &str,
    image: &Image,
    label: &[u8],
    classes: &[String],
    palette: &[[u8; 3]],
) -> Image {
    let zoom = Zoom::of(image.size);
    let mut picture = zoom.image(image);
    let shown = zoom.center(image.size, label);
    brighten(&mut picture);
    let Size { h, w } = picture.size;
    for (i, pixel) in picture.rgb.chunks_exact_mut(3).enumerate() {
        let (row, column, class) = (i / w, i % w, shown[i]);
        for (value, color) in pixel.iter_mut().zip(palette[usize::from(class)]) {
            *value = mix(*value, color, CLASS_OPACITY);
        }
        let border =
            column + 1 < w && shown[i + 1] != class || row + 1 < h && shown[i + w] != class;
        if border {
            pixel.iter_mut().for_each(|value| *value = mix(*value, 255, BORDER_OPACITY));
        }
    }

    let mut counts = vec![0u64; classes.len()];
    label.iter().for_each(|class| counts[usize::from(*class)] += 1);
    let mut present: Vec<usize> = (0..classes.len()).filter(|class| counts[*class] > 0).collect();
    present.sort_by_key(|class| std::cmp::Reverse(counts[*class]));
    let share = |class: &usize| percent(counts[*class], label.len());

    let page = Page::new(picture.size);
    let line = page.em * 1.7;
    // As many columns as keep the legend at the picture's side; twelve rows have a place beside any.
    let rows = ((h as f32 / line) as usize).max(12);
    let columns = present.len().div_ceil(rows).max(1);
    let rows = present.len().div_ceil(columns);
    let column = |texts: &mut dyn Iterator<Item = String>| {
        texts.map(|text| text::width(&text, page.em)).fold(0.0, f32::max)
    };
    let limit = 16.0 * page.em;
    let names = column(&mut present.iter().map(|c| classes[*c].clone())).min(limit);
    let shares = column(&mut present.iter().map(share));
    let entry = 1.6 * page.em + names + 1.2 * page.em + shares;
    let step = entry + 1.8 * page.em;
    let legend = Side {
        width: step * (columns - 1) as f32 + entry,
        height: (rows as f32 * line).ceil() as usize,
    };

    let mut canvas = page.canvas(&[&picture], legend, &[title]);
    for (i, class) in present.iter().enumerate() {
        let left = (page.margin + w) as f32 + page.gap() + (i / rows) as f32 * step;
        let top = page.top() as f32 + (i % rows) as f32 * line;
        let baseline = top + page.em;
        let side = page.em.round() as usize;
        let (row, at) = ((top + 0.1 * page.em).round() as usize, left.round() as usize);
        canvas.rectangle(row, at, Size::new(side, side), palette[*class]);
        let name = text::shortened(&classes[*class], page.em, names + 1.0);
        canvas.text(left + 1.6 * page.em, baseline, &name, page.em, INK);
        let share = share(class);
        let right = left + entry - text::width(&share, page.em);
        canvas.text(right, baseline, &share, page.em, FAINT);
    }
    canvas.0
}

/// A share that is not nothing never reads as nothing.
fn percent(count: u64, of: usize) -> String {
    let percent = 100.0 * count as f64 / of as f64;
    if count > 0 && percent < 0.1 { "< 0.1 %".into() } else { format!("{percent:.1} %") }
}

/// Brings the mean of a dark picture to [`BRIGHTNESS`] by a power of its values: black and white stay.
fn brighten(picture: &mut Image) {
    let sum: u64 = picture.rgb.iter().map(|v| u64::from(*v)).sum();
    let mean = sum as f32 / (255.0 * picture.rgb.len().max(1) as f32);
    if mean >= BRIGHTNESS {
        return;
    }
    // Below 1/255 there is only noise to see.
    let power = BRIGHTNESS.ln() / mean.max(1.0 / 255.0).ln();
    let lifted = |v: usize| (255.0 * (v as f32 / 255.0).powf(power) + 0.5) as u8;
    let table: Vec<u8> = (0..256).map(lifted).collect();
    picture.rgb.iter_mut().for_each(|v| *v = table[usize::from(*v)]);
}

/// `image` and, beside it, `values` (`[h, w]` of its size) in colours, with a colour bar. What is
/// not finite is gray, and the bar says so where there is any. Where values lie beyond an end of the bar, an arrow there says how far they go.
pub fn scalar_map(title: &str, image: &Image, values: &[f32], scale: &Scale) -> Image {
    let zoom = Zoom::of(image.size);
    let picture = zoom.image(image);
    let map = scale.paint(picture.size, &zoom.mean(image.size, values));

    let page = Page::new(picture.size);
    let Size { h, w } = picture.size;
    let [first, last] = scale.range;
    let beyond = scale.beyond(values);
    let [below, above] = beyond.each_ref().map(|end| match end {
        Some(_) => ((1.5 * page.em) as usize).min(h / 4),
        None => 0,
    });
    let foot = match values.iter().all(|v| v.is_finite()) {
        true => 0,
        false => ((1.5 * page.em) as usize).min(h / 4),
    };
    let length = h - below - above - foot;
    let ticks = Ticks::new(first.min(last), first.max(last), length as f32 / page.em);
    let ends = beyond.iter().flatten().map(|text| text::width(text, page.em));
    let labels = ticks.at.iter().map(|t| text::width(&ticks.label(*t), page.em));
    let gray = (foot > 0).then(|| text::width(NOT_FINITE, page.em));
    let widest = labels.chain(ends).chain(gray).fold(0.0, f32::max);
    let bar = (1.3 * page.em).round() as usize;
    let titles = [title, scale.label];
    let side = Side { width: bar as f32 + 0.9 * page.em + widest, height: h };
    let mut canvas = page.canvas(&[&picture, &map], side, &titles);
    let left = page.margin + 2 * w + page.space() + page.gap() as usize;
    let top = page.top() + above;
    for row in 0..length {
        let place = 1.0 - (row as f32 + 0.5) / length as f32;
        let size = Size::new(1, bar);
        canvas.rectangle(top + row, left, size, scale.color(first + place * (last - first)));
    }
    let x = (left + bar) as f32 + 0.8 * page.em;
    for tick in &ticks.at {
        let y = top as f32 + (1.0 - scale.place(*tick as f32)) * (length - 1) as f32;
        let dash = Size::new(page.stroke(), (0.4 * page.em).round() as usize);
        let row = (y - page.stroke() as f32 / 2.0 + 0.5) as usize;
        canvas.rectangle(row, left + bar, dash, INK);
        canvas.text(x, y + 0.36 * page.em, &ticks.label(*tick), page.em, INK);
    }
    // Arrows a row apart from the bar, narrower away from it, and how far the values go.
    let high = (0.8 * page.em) as usize;
    for i in 1..=high {
        let width = bar * (high - i) / high;
        let (at, size) = (left + (bar - width) / 2, Size::new(1, width));
        if above > high {
            canvas.rectangle(top - 1 - i, at, size, scale.color(last));
        }
        if below > high {
            canvas.rectangle(top + length + i, at, size, scale.color(first));
        }
    }
    let [below, above] = beyond;
    if let Some(text) = above {
        canvas.text(x, page.top() as f32 + 0.75 * page.em, &text, page.em, INK);
    }
    if let Some(text) = below {
        canvas.text(x, (page.top() + h - foot) as f32 - 0.05 * page.em, &text, page.em, INK);
    }
    if foot > 0 {
        let high = foot * 2 / 3;
        canvas.rectangle(page.top() + h - high, left, Size::new(high, bar), GRAY);
        canvas.text(x, (page.top() + h) as f32 - 0.1 * page.em, NOT_FINITE, page.em, INK);
    }
    canvas.0
}

/// A whole factor that brings the longer side near 1024 pixels: each pixel `up` x `up`, or the mean
/// of `down` x `down`.
struct Zoom {
    up: usize,
    down: usize,
}

impl Zoom {
    fn of(size: Size) -> Self {
        let (long, short) = (size.h.max(size.w), size.h.min(size.w).max(1));
        Zoom { up: (360 / short).clamp(1, (1024 / long).max(1)), down: long.div_ceil(2048) }
    }

    /// Size of the result, and for a pixel of it the first source row (or column) and how many.
    fn size(&self, size: Size) -> Size {
        let side = |n: usize| (n * self.up / self.down).max(1);
        Size::new(side(size.h), side(size.w))
    }

    /// Calls `each` with the source indices that a pixel of the result stands for, row-major.
    fn map<T>(&self, size: Size, mut each: impl FnMut(&[usize]) -> T) -> Vec<T> {
        let to = self.size(size);
        let mut all = Vec::with_capacity(to.pixels());
        let mut indices = Vec::with_capacity(self.down * self.down);
        let source = |i: usize, n: usize| {
            let first = i * self.down / self.up;
            first..(first + self.down).min(n)
        };
        for row in 0..to.h {
            for column in 0..to.w {
                indices.clear();
                for r in source(row, size.h) {
                    indices.extend(source(column, size.w).map(|c| r * size.w + c));
                }
                all.push(each(&indices));
            }
        }
        all
    }

    fn image(&self, image: &Image) -> Image {
        let channel = |indices: &[usize], c: usize| {
            let sum: usize = indices.iter().map(|i| usize::from(image.rgb[3 * i + c])).sum();
            ((sum + indices.len() / 2) / indices.len()) as u8
        };
        let pixels = self.map(image.size, |indices| [0, 1, 2].map(|c| channel(indices, c)));
        Image { size: self.size(image.size), rgb: pixels.into_flattened() }
    }

    fn mean(&self, size: Size, values: &[f32]) -> Vec<f32> {
        self.map(size, |indices| {
            indices.iter().map(|i| values[*i]).sum::<f32>() / indices.len() as f32
        })
    }

    /// A class has no mean: the middle pixel stands for the others.
    fn center(&self, size: Size, label: &[u8]) -> Vec<u8> {
        self.map(size, |indices| label[indices[indices.len() / 2]])
    }
}

/// What stands to the right of the panels.
struct Side {
    width: f32,
    height: usize,
}

/// Where things go: margin, titles above, panels side by side, then a legend or bar.
struct Page {
    /// Pixels an em of the text.
    em: f32,
    margin: usize,
    panel: Size,
}

impl Page {
    fn new(panel: Size) -> Self {
        // Text grows slower than the picture: 14 px at 360, 24 px at 1080.
        let short = panel.h.min(panel.w) as f32;
        let em = (14.0 * (short / 360.0).sqrt()).clamp(13.0, 48.0).round();
        Page { em, margin: (1.2 * em) as usize, panel }
    }

    /// First row of the panels.
    fn top(&self) -> usize {
        self.margin + (1.7 * self.em) as usize
    }

    /// Between two panels.
    fn space(&self) -> usize {
        self.em as usize
    }

    /// Between the last panel and what explains it.
    fn gap(&self) -> f32 {
        self.em.round()
    }

    /// Of a tick.
    fn stroke(&self) -> usize {
        (self.em / 14.0).round().max(1.0) as usize
    }

    /// A page with its panels and a title over each; `side` is kept free to their right.
    fn canvas(&self, panels: &[&Image], side: Side, titles: &[&str]) -> Canvas {
        let Size { h, w } = self.panel;
        let body = panels.len() * w + (panels.len() - 1) * self.space();
        let width = 2 * self.margin + body + (self.gap() + side.width).ceil() as usize;
        let height = self.top() + h.max(side.height) + self.margin;
        let mut canvas = Canvas::new(Size::new(height, width), PAPER);
        for (i, panel) in panels.iter().enumerate() {
            let left = self.margin + i * (w + self.space());
            canvas.picture(self.top(), left, panel);
            let end = if i + 1 < titles.len() { left + w } else { width - self.margin };
            let title = text::shortened(titles[i], self.em, (end - left) as f32);
            let baseline = self.top() as f32 - 0.6 * self.em;
            canvas.text(left as f32, baseline, &title, self.em, INK);
        }
        canvas
    }
}

pub(super) struct Ticks {
    pub at: Vec<f64>,
    decimals: usize,
}

impl Ticks {
    /// Multiples of 1, 2 or 5 times a power of ten about 3 em apart on a bar of `length` em, and
    /// the ends of the range where there is room for them.
    pub fn new(low: f32, high: f32, length: f32) -> Self {
        let (low, high) = (f64::from(low), f64::from(high));
        let raw = (high - low) / f64::from((length / 3.0).clamp(2.0, 10.0));
        if !(raw > 0.0 && raw.is_finite()) {
            return Ticks { at: Vec::new(), decimals: 0 };
        }
        let power = 10f64.powi(raw.log10().floor() as i32);
        let steps = [1.0, 2.0, 5.0].map(|m| m * power);
        let step = steps.into_iter().find(|s| *s >= raw * 0.999).unwrap_or(10.0 * power);
        let first = (low / step - 1e-9).ceil() as i64;
        let last = (high / step + 1e-9).floor() as i64;
        let mut at: Vec<f64> = (first..=last).map(|i| i as f64 * step).collect();
        let room = 1.3 * (high - low) / f64::from(length);
        for end in [low, high] {
            if at.iter().all(|tick| (tick - end).abs() >= room) {
                at.push(end);
            }
        }
        let decimals = (-(step * 1.001).log10().floor()).max(0.0) as usize;
        Ticks { at, decimals }
    }

    pub fn label(&self, tick: f64) -> String {
        // An end of the range needs a digit more than the multiples.
        let exact = 10f64.powi(self.decimals as i32) * tick;
        let more = usize::from((exact - exact.round()).abs() > 1e-3 && self.decimals > 0);
        format!("{:.*}", self.decimals + more, tick + 0.0).replace('-', "\u{2212}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let cases: [(f32, f32, f32, &[&str]); 5] = [
            (0.0, 2.1972, 26.0, &["0.0", "0.5", "1.0", "1.5", "2.0", "2.20"]),
            (0.0, 3.0445, 8.0, &["0", "2", "3"]),
            (-812.4, -35.0, 20.0, &["−800", "−600", "−400", "−200", "−35"]),
            (-0.3, 0.3, 9.0, &["−0.2", "0.0", "0.2", "−0.3", "0.3"]),
            (1.0, 1.0, 9.0, &[]),
        ];
        for (low, high, length, expected) in cases {
            let ticks = Ticks::new(low, high, length);
            let labels: Vec<String> = ticks.at.iter().map(|t| ticks.label(*t)).collect();
            assert_eq!(labels, expected, "{low} {high} {length}");
        }
    }

    #[test]
    fn pictures_of_any_shape_hold_their_colours() {
        let classes = ["road", "sky"].map(String::from);
        let palette = super::super::palette::of(&classes);
        let gradient = colorous::INFERNO;
        for size in [Size::new(1, 1), Size::new(97, 131), Size::new(40, 3000), Size::new(2500, 33)]
        {
            let image = Image { size, rgb: vec![90; 3 * size.pixels()] };
            let picture = class_map("a", &image, &vec![1; size.pixels()], &classes, &palette);
            let blended = palette[1].map(|color| mix(90, color, CLASS_OPACITY));
            let contains = |picture: &Image, color| picture.rgb.chunks_exact(3).any(|p| p == color);
            assert!(contains(&picture, blended), "{size}");
            // The legend shows only what is there.
            assert!(contains(&picture, palette[1]) && !contains(&picture, palette[0]), "{size}");
            let mut values = vec![0.5; size.pixels()];
            values[0] = f32::NEG_INFINITY;
            let scale = Scale { range: [0.0, 1.0], gradient, label: "x" };
            let picture = scalar_map("a", &image, &values, &scale);
            assert_eq!(picture.rgb.len(), 3 * picture.size.pixels());
            if size.pixels() > 1 {
                assert!(
                    contains(&picture, gradient.eval_rational(128, 256).into_array()),
                    "{size}"
                );
            }
        }
    }

    #[test]
    fn a_bar_says_how_far_values_lie_beyond_it() {
        let scale = |range| Scale { range, gradient: colorous::VIRIDIS, label: "x" };
        let values = [-976.4, -3.0, f32::NAN, 7.0];
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(scale([-396.0, 10.0]).beyond(&values), [text("to \u{2212}976"), None]);
        // Low values bright: the last end is the low one.
        assert_eq!(scale([5.0, -396.0]).beyond(&values), [text("to 7.00"), text("to \u{2212}976")]);
        assert_eq!(scale([-976.4, 7.0]).beyond(&values), [None, None]);
        // It is gray, and no end of the bar.
        assert_eq!(scale([0.0, 1.0]).beyond(&[f32::NEG_INFINITY]), [None, None]);

        // In pictures: the same bar is longer without arrows.
        let size = Size::new(400, 400);
        let image = Image { size, rgb: vec![90; 3 * size.pixels()] };
        let values = |least| [vec![least], vec![0.5; size.pixels() - 1]].concat();
        let scale = scale([1.0, 0.0]);
        let rows = |least: f32| {
            let picture = scalar_map("a", &image, &values(least), &scale);
            let bright = scale.color(0.0);
            picture.rgb.chunks_exact(3).filter(|p| *p == bright).count()
        };
        assert!(rows(-1.0) > rows(0.0), "an arrow in the colour of the low end");
    }

    #[test]
    fn low_is_bright_where_the_first_end_is_the_greater() {
        let scale = Scale { range: [2.0, -2.0], gradient: colorous::VIRIDIS, label: "x" };
        let sum = |v| scale.color(v).iter().map(|v| u32::from(*v)).sum::<u32>();
        assert!(sum(-2.0) > sum(0.0) && sum(0.0) > sum(2.0));
    }

    #[test]
    fn what_is_not_finite_has_a_colour_of_its_own_that_the_bar_names() {
        let scale = Scale { range: [0.0, 1.0], gradient: colorous::INFERNO, label: "x" };
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(scale.color(value), GRAY);
            assert!((0..=256).all(|i| scale.color(i as f32 / 256.0) != GRAY));
            let size = Size::new(400, 400);
            let image = Image { size, rgb: vec![0; 3 * size.pixels()] };
            let mut values = vec![0.5; size.pixels()];
            let gray = |values: &[f32]| {
                let picture = scalar_map("a", &image, values, &scale);
                picture.rgb.chunks_exact(3).filter(|p| *p == GRAY).count()
            };
            let without = gray(&values);
            values[7] = value;
            // The pixel itself, and a field of the bar's width.
            assert!(gray(&values) > without + 50, "{} and {without}", gray(&values));
        }
    }

    #[test]
    fn every_class_present_is_in_the_legend_and_no_share_reads_as_nothing() {
        let classes: Vec<String> = (0..200).map(|i| format!("class {i}")).collect();
        let palette = super::super::palette::of(&classes);
        let size = Size::new(60, 100);
        let image = Image { size, rgb: vec![200; 3 * size.pixels()] };
        let label: Vec<u8> = (0..size.pixels()).map(|i| (i % 100) as u8).collect();
        let picture = class_map("a", &image, &label, &classes, &palette);
        let contains = |color| picture.rgb.chunks_exact(3).any(|p| p == color);
        for class in 0..200 {
            assert_eq!(contains(palette[class]), class < 100, "class {class}");
        }
        let found = [percent(0, 9), percent(1, 9999), percent(1, 1000), percent(3, 4)];
        assert_eq!(found, ["0.0 %", "< 0.1 %", "0.1 %", "75.0 %"]);
    }

    #[test]
    fn dark_images_are_brightened_and_others_are_not() {
        let dark = |v: u8| Image { size: Size::new(1, 2), rgb: vec![v, v, v, 0, 0, 0] };
        let mut image = dark(40);
        brighten(&mut image);
        assert!(image.rgb[0] > 100 && image.rgb[3] == 0, "{:?}", image.rgb);
        let mut image = dark(200);
        brighten(&mut image);
        assert_eq!(image, dark(200));
    }
}

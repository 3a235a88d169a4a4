//! Pictures of maps for people: the image blended with its classes and a legend, and the image
//! beside a map of numbers with a colour bar. The exact values are in the other files; here small
//! images are enlarged and large ones reduced by a whole factor.

use colorous::Gradient;

use super::layout::{Layout, Side};
use super::ticks::Ticks;
use super::zoom::Zoom;
use super::{digits, mix, text};
use crate::data::Image;
use crate::ops::Size;

pub(super) const PAPER: [u8; 3] = [255, 255, 255];
pub(super) const INK: [u8; 3] = [38, 38, 38];
pub(super) const FAINT: [u8; 3] = [118, 118, 118];

/// The colour of NaN.
const GRAY: [u8; 3] = [128; 3];

/// Opacity of the class colour over the image, and of the white line between classes.
const CLASS_OPACITY: f32 = 0.55;
const BORDER_OPACITY: f32 = 0.75;

/// Mean that a darker image is brought to under its classes, in 0 .. 1 of the encoded values.
const BRIGHTNESS: f32 = 0.35;

/// What the colour bar says of values without a place on it.
const NOT_FINITE: &str = "not finite";

/// How values become colours, and the label of their bar.
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
        let text = |v: f32| {
            let decimals = if v.abs() < 10.0 { 2 } else { 0 };
            format!("to {v:.decimals$}").replace('-', "\u{2212}")
        };
        [(first.0 < 0.0).then(|| text(first.1)), (last.0 > 1.0).then(|| text(last.1))]
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
    let share = |class: &usize| digits::percent(counts[*class] as f64 / label.len() as f64);

    let page = Layout::new(picture.size);
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

    let page = Layout::new(picture.size);
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn every_class_present_is_in_the_legend() {
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

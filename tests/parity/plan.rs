//! The plan of whole networks: a straightforward f64 walk over the same topology, unfused and
//! unfolded, against the engine, for odd channel widths (padded channels), both concat orders, both
//! output strides, separable or not. What `compile`, `fold`, the arena and the views do shows here.

use ddu::data::Image;
use ddu::engine::Engine;
use ddu::model::{Backbone, ConcatOrder, Config, Decoder, Model, units};
use ddu::ops::{Conv2d, Dropout, Pass, Resize, Size};

use crate::models::{Rng, random_model, small};

/// A CHW tensor in f64.
#[derive(Clone)]
pub struct Map {
    pub c: usize,
    pub size: Size,
    pub data: Vec<f64>,
}

impl Map {
    fn get(&self, c: usize, y: isize, x: isize) -> f64 {
        let inside = y >= 0 && x >= 0 && y < self.size.h as isize && x < self.size.w as isize;
        if inside {
            self.data[(c * self.size.h + y as usize) * self.size.w + x as usize]
        } else {
            0.0
        }
    }

    fn build(c: usize, size: Size, f: impl Fn(usize, usize, usize) -> f64) -> Map {
        let pixels = size.pixels();
        let data =
            (0..c * pixels).map(|i| f(i / pixels, i % pixels / size.w, i % size.w)).collect();
        Map { c, size, data }
    }
}

/// The textbook network: convolution, then norm, then sum, then ReLU, then dropout in a pass of MC Dropout.
pub struct Walk<'a> {
    pub model: &'a Model,
    pub pass: Option<Pass>,
}

impl Walk<'_> {
    fn unit(&self, name: &str, x: &Map) -> Map {
        let unit = units(self.model.config()).into_iter().find(|u| u.name == name).unwrap();
        let tensor = |part: &str| &self.model.tensor(&format!("{name}.{part}")).data;
        let conv: Conv2d = unit.conv;
        assert_eq!(conv.in_channels, x.c, "{name}");
        let size = conv.output_size(x.size).unwrap();
        let [_, inner, kernel, _] = conv.weight_shape();
        Map::build(conv.out_channels, size, |k, y, q| {
            let mut sum = if unit.bias { f64::from(tensor("bias")[k]) } else { 0.0 };
            for c in 0..inner {
                for r in 0..kernel {
                    for s in 0..kernel {
                        let w = tensor("weight")[((k * inner + c) * kernel + r) * kernel + s];
                        let at = |i: usize, t: usize| {
                            (i * conv.stride + t * conv.dilation) as isize - conv.padding as isize
                        };
                        let channel = if conv.depthwise { k } else { c };
                        sum += f64::from(w) * x.get(channel, at(y, r), at(q, s));
                    }
                }
            }
            if unit.norm {
                let part = |p: &str| f64::from(tensor(&format!("norm.{p}"))[k]);
                let scale = part("weight") / (part("var") + 1e-5).sqrt();
                sum = (sum - part("mean")) * scale + part("bias");
            }
            sum
        })
    }

    fn relu(mut x: Map) -> Map {
        x.data.iter_mut().for_each(|v| *v = v.max(0.0));
        x
    }

    fn three(&self, name: &str, x: &Map) -> Map {
        let config = self.model.config();
        let separable = match name.starts_with("aspp") {
            true => config.aspp_separable,
            false => config.decoder_separable,
        };
        let y = if separable {
            let between = self.unit(&format!("{name}.depthwise"), x);
            self.unit(&format!("{name}.pointwise"), &between)
        } else {
            self.unit(name, x)
        };
        Self::relu(y)
    }

    fn dropped(&self, unit: &str, mut x: Map) -> Map {
        let dropouts = self.model.config().dropout.iter().enumerate();
        for (place, dropout) in dropouts.filter(|(_, dropout)| dropout.after == unit) {
            let Some(pass) = self.pass else { continue };
            let op = Dropout { place: place as u32, probability: dropout.probability };
            x = Map::build(x.c, x.size, |c, y, q| {
                let pixel = (y * x.size.w + q) as u32;
                let factors = op.factors(pass, pixel, c as u32 / 4);
                x.get(c, y as isize, q as isize) * f64::from(factors[c % 4])
            });
        }
        x
    }

    pub fn resize(&self, x: &Map, to: Size) -> Map {
        // The taps have their own test against exact positions.
        let resize = Resize { align_corners: self.model.config().align_corners };
        let (rows, columns) = (resize.taps(x.size.h, to.h), resize.taps(x.size.w, to.w));
        Map::build(x.c, to, |c, y, q| {
            let (v, u) = (rows[y], columns[q]);
            let at = |row: usize, column: usize| x.get(c, row as isize, column as isize);
            let line = |row| {
                let u1 = f64::from(u.weight);
                at(row, u.low) * (1.0 - u1) + at(row, u.high) * u1
            };
            line(v.low) * (1.0 - f64::from(v.weight)) + line(v.high) * f64::from(v.weight)
        })
    }

    fn concat(parts: &[&Map]) -> Map {
        let data = parts.iter().flat_map(|p| p.data.clone()).collect();
        Map { c: parts.iter().map(|p| p.c).sum(), size: parts[0].size, data }
    }

    pub fn run(&self, image: &Map) -> (Map, Map) {
        let config = self.model.config();
        let stem = Self::relu(self.unit("backbone.stem", image));
        let half = |n: usize| (n - 1) / 2 + 1;
        let size = Size::new(half(stem.size.h), half(stem.size.w));
        let mut x = Map::build(stem.c, size, |c, y, q| {
            let window = (0..9).map(|t| (2 * y + t / 3, 2 * q + t % 3));
            let inside = window
                .filter(|(r, s)| (1..=stem.size.h).contains(r) && (1..=stem.size.w).contains(s));
            inside
                .map(|(r, s)| stem.get(c, r as isize - 1, s as isize - 1))
                .fold(f64::MIN, f64::max)
        });
        let mut low = x.clone();
        let names: Vec<String> = units(config).into_iter().map(|u| u.name).collect();
        for stage in 0..4 {
            for block in 0..config.backbone.blocks()[stage] {
                let name = format!("backbone.layer{}.{block}", stage + 1);
                let last = if config.backbone.bottleneck() { 3 } else { 2 };
                let mut y = x.clone();
                for i in 1..=last {
                    y = self.unit(&format!("{name}.conv{i}"), &y);
                    if i < last {
                        y = Self::relu(y);
                    }
                }
                let down = format!("{name}.downsample");
                let shortcut = if names.contains(&down) { self.unit(&down, &x) } else { x };
                y.data.iter_mut().zip(&shortcut.data).for_each(|(y, s)| *y += s);
                x = Self::relu(y);
            }
            if stage == 0 {
                low = x.clone();
            }
        }
        let mut branches = vec![Self::relu(self.unit("aspp.0", &x))];
        for i in 1..=config.aspp_rates.len() {
            branches.push(self.three(&format!("aspp.{i}"), &x));
        }
        let pixels = x.size.pixels() as f64;
        let mean = Map::build(x.c, Size::new(1, 1), |c, _, _| {
            x.data[c * x.size.pixels()..][..x.size.pixels()].iter().sum::<f64>() / pixels
        });
        let pooled = Self::relu(self.unit("aspp.pool", &mean));
        branches.push(self.resize(&pooled, x.size));
        let all = Self::concat(&branches.iter().collect::<Vec<_>>());
        let mut x = self.dropped("aspp.project", Self::relu(self.unit("aspp.project", &all)));
        for i in 0..config.post_aspp_channels.len() {
            let name = format!("post.{i}");
            x = self.dropped(&name, self.three(&name, &x));
        }
        if let Some(decoder) = &config.decoder {
            let low = Self::relu(self.unit("decoder.low_level", &low));
            let up = self.resize(&x, low.size);
            x = match decoder.concat_order {
                ConcatOrder::AsppFirst => Self::concat(&[&up, &low]),
                ConcatOrder::LowLevelFirst => Self::concat(&[&low, &up]),
            };
            for i in 0..decoder.refine_channels.len() {
                let name = format!("decoder.{i}");
                x = self.dropped(&name, self.three(&name, &x));
            }
        }
        let logits = self.unit("classifier", &x);
        (x, logits)
    }
}

/// f32 through at most 110 layers: each layer adds rounding of a few u relative to its own scale and
/// passes on what came; 1e-4 of the largest value is the project's bound for whole networks.
pub const BOUND: f64 = 1e-4;

/// The network's input: an image normalised and padded.
pub fn input(config: &Config, image: &Image, padded: Size) -> Map {
    let size = image.size;
    Map::build(3, padded, |c, y, x| {
        if y >= size.h || x >= size.w {
            return 0.0;
        }
        let v = f64::from(image.rgb[(y * size.w + x) * 3 + c]) / 255.0;
        (v - f64::from(config.mean[c])) / f64::from(config.std[c])
    })
}

pub fn images(count: usize, size: Size) -> Vec<Image> {
    let mut rng = Rng(11);
    let mut rgb = |_| rng.next() as u8;
    let mut image = |_| Image { size, rgb: (0..size.pixels() * 3).map(&mut rgb).collect() };
    (0..count).map(&mut image).collect()
}

fn check(name: &str, config: Config, size: Size) {
    let model = random_model(config, 7);
    let images = images(2, size);
    let mut engine = Engine::new(model.clone());
    let output = engine.run(&images.iter().collect::<Vec<_>>()).unwrap();
    for (i, image) in images.iter().enumerate() {
        let input = input(model.config(), image, output.padded);
        let (features, logits) = Walk { model: &model, pass: None }.run(&input);
        assert_eq!(features.size, output.grid, "{name}");
        for (what, map, found) in [
            ("features", &features, output.features(i).unwrap()),
            ("logits", &logits, output.logits(i).unwrap()),
        ] {
            let scale = map.data.iter().fold(0f64, |m, v| m.max(v.abs()));
            assert!(scale > 0.05, "{name}: {what} are nearly zero, the test would show nothing");
            assert_eq!(found.len(), map.data.len(), "{name}: {what}");
            let pixels = map.size.pixels();
            for (j, v) in found.iter().enumerate() {
                let exact = map.data[j % map.c * pixels + j / map.c];
                let error = (f64::from(*v) - exact).abs() / scale;
                assert!(
                    error <= BOUND,
                    "{name}: {what} of image {i}, element {j}: {v} for {exact}"
                );
            }
        }
        let maps = output.maps(i).unwrap();
        assert_eq!((maps.label.len(), maps.entropy.len()), (size.pixels(), size.pixels()));
    }
}

#[test]
fn basic_blocks_v3_plus() {
    check("resnet18", small(Backbone::Resnet18), Size::new(49, 35));
}

#[test]
fn separable_with_post_aspp_and_padding() {
    let config = Config {
        aspp_separable: true,
        decoder_separable: true,
        post_aspp_channels: vec![12],
        input_multiple: 16,
        ..small(Backbone::Resnet18)
    };
    check("separable", config, Size::new(41, 30));
}

#[test]
fn bottlenecks_output_stride_8_low_level_first() {
    let mut config = small(Backbone::Resnet50);
    config.output_stride = 8;
    config.dilations[2] = vec![1, 2, 2, 2, 2, 2];
    config.dilations[3] = vec![2, 4, 8];
    config.align_corners = false;
    config.decoder = Some(Decoder {
        low_level_channels: 6,
        concat_order: ConcatOrder::LowLevelFirst,
        refine_channels: vec![20],
    });
    check("bottlenecks", config.clone(), Size::new(33, 46));
    config.decoder_separable = true;
    check("separable bottlenecks, low level first", config, Size::new(30, 39));
}

#[test]
fn v3_without_a_decoder() {
    let mut config = small(Backbone::Resnet18);
    config.decoder = None;
    config.post_aspp_channels = vec![20];
    config.align_corners = false;
    check("v3", config, Size::new(33, 40));
}

#[test]
fn degenerate_sizes() {
    check("one pixel", small(Backbone::Resnet18), Size::new(1, 1));
    let mut engine = Engine::new(random_model(small(Backbone::Resnet18), 7));
    let message = |e: ddu::Result<_>| e.err().map(|e| e.to_string()).unwrap_or_default();
    let plan = engine.plan(1, Size::new(0, 4)).map(|_| ());
    assert!(message(plan).contains("at least one pixel"));
    let huge = Size::new(usize::MAX / 4, 64);
    assert!(message(engine.plan(1, huge).map(|_| ())).contains("can be addressed"));
    let plan = engine.plan(1, Size::new(800, 600)).unwrap();
    engine.check_memory(&plan, None).unwrap();
    let bytes = ddu::cpu::memory_bytes(&plan, 0);
    assert!(bytes > plan.arena_bytes(4) + 800 * 600 * 8);
    engine.check_memory(&plan, Some(bytes)).unwrap();
    // An ensemble of 3 needs the logits of all on their grid and 13 bytes of maps per pixel, as 3
    // passes with dropout do.
    let classes = engine.model().config().classes.len() as u64;
    let held = 3 * 4 * classes * plan.grid().pixels() as u64 + 13 * 800 * 600;
    engine.check_member_memory(&plan, 3, Some(bytes + held)).unwrap();
    engine.check_member_memory(&plan, 3, Some(bytes + held - 1)).unwrap_err();
    assert_eq!(ddu::cpu::memory_bytes(&plan, 3), bytes + held);
    // Half the memory: sqrt(0.45) of 600.
    let refused = message(engine.check_memory(&plan, Some(bytes / 2)).map(|_| ()));
    assert!(refused.ends_with("--resize 402 would fit"), "{refused}");
    let image = |h, w| Image { size: Size::new(h, w), rgb: vec![0; h * w * 3] };
    let mixed = engine.run(&[&image(4, 4), &image(4, 5)]).map(|_| ());
    assert!(message(mixed).contains("images of 4 x 4"));
}

//! Labelled street scenes, drawn from a seed: the demo's data.
//!
//! A street in true perspective (ground, buildings, sky) with objects in it, four rays per pixel, fog,
//! shadows, puddles, blur and noise. Borders are ambiguous where a real camera's are: thin things,
//! leaves against the sky, worn paint, a pavement that runs into the road, anything far in the fog.
//! The label of a pixel is the class that most of its rays see.
//!
//! The same seed gives the same bytes on every platform (see [`random`]).

mod camera;
mod colour;
mod dump;
mod known;
mod light;
mod object;
pub mod random;
mod strangers;
mod street;

use rayon::prelude::*;

use crate::data::Image;
use crate::ops::Size;
use camera::{Camera, Frame};
use colour::{Rgb, mix, scale};
use light::Light;
use object::Object;
use random::{Random, hash};
use street::Street;

pub use dump::dump;

pub const SIZE: Size = Size { h: 192, w: 288 };

/// The classes of the network, in index order.
pub const CLASSES: [&str; 9] =
    ["sky", "building", "road", "marking", "pavement", "vegetation", "car", "pole", "sign"];
const SKY: u8 = 0;
const BUILDING: u8 = 1;
const ROAD: u8 = 2;
const MARKING: u8 = 3;
const PAVEMENT: u8 = 4;
const VEGETATION: u8 = 5;
const CAR: u8 = 6;
const POLE: u8 = 7;
const SIGN: u8 = 8;

/// Classes that no training scene holds; their labels follow those of [`CLASSES`].
pub const STRANGERS: [&str; 6] = ["cow", "sofa", "boxes", "cone", "person", "ball"];
const COW: u8 = 9;
const SOFA: u8 = 10;
const BOXES: u8 = 11;
const CONE: u8 = 12;
const PERSON: u8 = 13;
const BALL: u8 = 14;

/// Names of all classes, known ones first.
pub fn class_names() -> Vec<String> {
    CLASSES.iter().chain(&STRANGERS).map(|name| name.to_string()).collect()
}

/// Rays per pixel, in each direction.
const RAYS: usize = 2;

/// An image and the class of each of its pixels (row-major).
pub struct Scene {
    pub image: Image,
    pub label: Vec<u8>,
}

/// Draws the scene of a seed; with `strangers`, two to four objects of unknown classes stand in the
/// street, else none does. Training scenes are drawn without.
pub fn draw(seed: u64, strangers: bool) -> Scene {
    let view = View::new(&mut Random::new(seed), strangers);
    let Size { h, w } = SIZE;
    let mut rgb = vec![0f32; 3 * SIZE.pixels()];
    let mut label = vec![0u8; SIZE.pixels()];
    rgb.par_chunks_mut(3 * w).zip(label.par_chunks_mut(w)).enumerate().for_each(
        |(row, (rgb, label))| {
            for column in 0..w {
                let (colour, class) = view.pixel(column, row);
                rgb[3 * column..][..3].copy_from_slice(&colour);
                label[column] = class;
            }
        },
    );
    let rgb = view.lens.develop(&rgb, h, w);
    Scene { image: Image { size: SIZE, rgb }, label }
}

struct View {
    camera: Camera,
    light: Light,
    street: Street,
    /// Far to near, each with the part of the image it can cover.
    objects: Vec<(Frame, Object)>,
    lens: Lens,
}

impl View {
    fn new(random: &mut Random, strangers: bool) -> View {
        let (h, w) = (SIZE.h as f32, SIZE.w as f32);
        let camera = Camera {
            height: random.range(1.3, 2.1),
            focal: w * random.range(0.66, 0.9),
            centre: w * random.range(0.36, 0.64),
            horizon: h * random.range(0.40, 0.52),
        };
        let light = Light::new(random);
        let street = Street::new(random);
        let mut objects = Vec::new();
        furnish(random, &street, &mut objects);
        if strangers {
            intrude(random, &street, &mut objects);
        }
        let mut objects: Vec<_> = objects
            .into_iter()
            .map(|o| (camera.frame(o.x, o.half, o.top, [o.z[0].max(0.5), o.z[1]], SIZE), o))
            .collect();
        objects.sort_by(|a, b| (b.1.z[0] + b.1.z[1]).total_cmp(&(a.1.z[0] + a.1.z[1])));
        View { camera, light, street, objects, lens: Lens::new(random) }
    }

    /// Mean colour and commonest label of a pixel's rays (the first of equals).
    fn pixel(&self, column: usize, row: usize) -> (Rgb, u8) {
        let (mut sum, mut labels) = ([0f32; 3], [0u8; RAYS * RAYS]);
        for (i, label) in labels.iter_mut().enumerate() {
            let offset = |k: usize| (k as f32 + 0.5) / RAYS as f32;
            let (x, y) = (column as f32 + offset(i % RAYS), row as f32 + offset(i / RAYS));
            let (colour, class) = self.sample(x, y, column, row);
            for (sum, value) in sum.iter_mut().zip(colour) {
                *sum += value;
            }
            *label = class;
        }
        let votes = |l: u8| labels.iter().filter(|&&other| other == l).count();
        let mut winner = labels[0];
        for &l in &labels[1..] {
            if votes(l) > votes(winner) {
                winner = l;
            }
        }
        (scale(sum, 1.0 / (RAYS * RAYS) as f32), winner)
    }

    fn sample(&self, x: f32, y: f32, column: usize, row: usize) -> (Rgb, u8) {
        let ray = self.camera.ray(x, y);
        let ground = self.street.look(&ray, &self.light);
        let mut colour = ground.colour;
        let on_ground = ray.ground().is_some_and(|z| z == ground.z);
        if on_ground && ground.z < 60.0 {
            let mut shade = 0.0f32;
            for (_, object) in &self.objects {
                if (object.z[0] - ground.z).abs() < 6.0 {
                    shade = shade.max(object.shade(ray.x * ground.z, ground.z, self.light.slant));
                }
            }
            colour = scale(colour, 1.0 - self.light.shadow * 0.9 * shade);
        }
        let mut label = ground.label;
        let behind = if label == SKY { f32::MAX } else { ground.z + 0.05 };
        if label != SKY {
            colour = self.light.through_air(colour, ground.z);
        }
        for (frame, object) in &self.objects {
            if frame.contains(column, row)
                && let Some(hit) = object.look(&ray)
                && hit.z < behind
            {
                colour = mix(colour, self.light.through_air(hit.colour, hit.z), hit.alpha);
                if hit.alpha > 0.5 {
                    label = hit.label;
                }
            }
        }
        (colour, label)
    }
}

/// Adds the objects that belong in a street.
fn furnish(random: &mut Random, street: &Street, objects: &mut Vec<Object>) {
    let (road, pavement) = (street.road, street.pavement);
    for side in [-1.0f32, 1.0] {
        // Parked cars, then moving ones.
        if random.chance(0.7) {
            let mut z = random.range(6.5, 18.0);
            while z < 70.0 {
                if random.chance(0.5) {
                    objects.push(known::car(random, side * (road - 1.05), z, side < 0.0));
                }
                z += random.range(5.8, 10.0);
            }
        }
        if random.chance(0.55) {
            let z = random.range(9.0, 55.0);
            objects.push(known::car(random, side * 1.3, z, side < 0.0));
        }
        if random.chance(0.75) {
            let (mut z, step) = (random.range(5.0, 14.0), random.range(6.0, 16.0));
            while z < 80.0 {
                let half = random.range(1.2, 2.6);
                let x = side * (pavement - 0.4 + random.range(0.0, 1.2));
                let trunk = random.range(1.6, 2.8);
                objects.push(known::tree(random, x, z, trunk, half));
                z += step + random.range(0.0, 6.0);
            }
        }
        for _ in 0..random.below(4) {
            // Woods and bushes behind the houses' line, seen through the gaps.
            let (x, z) = (side * (pavement + random.range(3.0, 12.0)), random.range(14.0, 90.0));
            let half = random.range(2.0, 3.6);
            objects.push(known::tree(random, x, z, 0.8, half));
        }
        if random.chance(0.4) {
            let z = random.range(4.0, 25.0);
            let end = z + random.range(4.0, 14.0);
            objects.push(known::hedge(random, side * (pavement + 0.45), [z, end]));
        }
        let mut z = random.range(5.0, 18.0);
        let step = random.range(14.0, 26.0);
        while z < 80.0 {
            objects.push(known::lamp(random, side * (road + 0.35), z));
            z += step;
        }
        for _ in 0..1 + random.below(3) {
            let x = side * (road + random.range(0.4, 1.1));
            let z = random.range(6.0, 35.0);
            objects.push(known::sign(random, x, z));
        }
    }
}

/// Puts two to four strangers on the road and the pavement, near enough to be seen.
fn intrude(random: &mut Random, street: &Street, objects: &mut Vec<Object>) {
    let first = random.below(STRANGERS.len());
    let count = 2 + random.below(3);
    for i in 0..count {
        let label = COW + ((first + i) % STRANGERS.len()) as u8;
        let z = random.range(5.0, 13.0);
        let place = (i as f32 + random.range(0.2, 0.8)) / count as f32 * 2.0 - 1.0;
        objects.push(strangers::stranger(random, label, place * (street.road + 0.8), z));
    }
}

/// What the camera does to the light: blur, vignette, noise, and rounding to 8 bits.
struct Lens {
    /// Weight of the 3 x 3 mean against the pixel itself.
    blur: f32,
    noise: f32,
    exposure: f32,
    seed: u32,
}

impl Lens {
    fn new(random: &mut Random) -> Lens {
        Lens {
            blur: if random.chance(0.4) { random.range(0.3, 1.0) } else { 0.0 },
            noise: random.range(0.005, 0.035),
            exposure: random.range(0.88, 1.12),
            seed: random.bits() as u32,
        }
    }

    fn develop(&self, rgb: &[f32], h: usize, w: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(3 * h * w);
        for row in 0..h {
            for column in 0..w {
                // Distance from the middle, 1 in the corners.
                let (x, y) = (column as f32 / w as f32 - 0.5, row as f32 / h as f32 - 0.5);
                let vignette = 1.0 - 0.16 * (2.0 * (x * x + y * y));
                for channel in 0..3 {
                    let at = |r: usize, c: usize| rgb[3 * (r * w + c) + channel];
                    let mut value = at(row, column);
                    if self.blur > 0.0 {
                        let mut sum = 0.0;
                        for r in [row.saturating_sub(1), row, (row + 1).min(h - 1)] {
                            for c in [column.saturating_sub(1), column, (column + 1).min(w - 1)] {
                                sum += at(r, c);
                            }
                        }
                        value += (sum / 9.0 - value) * self.blur;
                    }
                    // Two uniforms: a triangular distribution of standard deviation 0.41.
                    let salt = self.seed.wrapping_add(channel as u32 * 0x9e37);
                    let grain = hash(column as i32, row as i32, salt)
                        + hash(column as i32, row as i32, salt ^ 0x5bd1_e995)
                        - 1.0;
                    let value = value * self.exposure * vignette + grain * self.noise * 2.4;
                    out.push((value.clamp(0.0, 1.0) * 255.0 + 0.5) as u8);
                }
            }
        }
        out
    }
}

//! Objects of classes that no training scene holds. Some stand out (a striped ball), some look much
//! like what is known (cardboard like a wall, a cone like a sign): the demo also shows where finding
//! them fails.

use super::camera::{Ray, box_planes};
use super::colour::{Rgb, mix, scale};
use super::object::{Hit, Object};
use super::random::{Random, cloud, hash, noise, smooth};
use super::{BALL, BOXES, CONE, COW, PERSON, SOFA};

/// Draws the stranger of class `label` with its foot at (x, z).
pub fn stranger(random: &mut Random, label: u8, x: f32, z: f32) -> Object {
    match label {
        COW => cow(random, x, z),
        SOFA => sofa(random, x, z),
        BOXES => boxes(random, x, z),
        CONE => cone(random, x, z),
        PERSON => person(random, x, z),
        _ => ball(random, x, z),
    }
}

fn ellipse(u: f32, y: f32, middle: [f32; 2], radius: [f32; 2]) -> f32 {
    let (a, b) = ((u - middle[0]) / radius[0], (y - middle[1]) / radius[1]);
    1.0 - (a * a + b * b)
}

fn cow(random: &mut Random, x: f32, z: f32) -> Object {
    let seed = random.bits() as u32;
    let ahead = if random.chance(0.5) { 1.0 } else { -1.0 };
    let dark = random.pick(&[[0.07, 0.06, 0.06], [0.36, 0.19, 0.10]]);
    Object::flat(x, 1.35, 1.75, z, move |u, y| {
        let u = u * ahead;
        let trunk = ellipse(u, y, [-0.05, 0.98], [0.92, 0.40])
            .max(1.0 - 1.3 * ((u + 0.05) / 0.85).abs().max(((y - 1.02) / 0.34).abs()));
        let neck = ellipse(u, y, [0.86, 1.20], [0.30, 0.26]);
        let head = ellipse(u, y, [1.05, 1.36], [0.26, 0.18]);
        let muzzle = ellipse(u, y, [1.22, 1.27], [0.11, 0.11]);
        let ear = ellipse(u, y, [0.90, 1.52], [0.13, 0.05]);
        let leg = [-0.70, -0.50, 0.42, 0.62].iter().any(|&l| (u - l).abs() < 0.085) && y < 0.9;
        let tail = (u + 0.93).abs() < 0.035 && y > 0.5 && y < 1.15;
        if muzzle > 0.0 {
            return Some(([0.85, 0.62, 0.58], COW, 1.0));
        }
        if trunk.max(neck).max(head).max(ear) <= 0.0 && !leg && !tail {
            return None;
        }
        let spot = cloud(u * 1.6 + 30.0, y * 1.6, seed) > 0.52;
        let light = 0.70 + 0.35 * smooth(0.4, 1.3, y);
        let hide = if y < 0.08 {
            [0.15, 0.12, 0.1]
        } else if spot {
            dark
        } else {
            [0.93, 0.91, 0.87]
        };
        Some((scale(hide, light), COW, 1.0))
    })
}

fn sofa(random: &mut Random, x: f32, z: f32) -> Object {
    let seed = random.bits() as u32;
    let cloth: Rgb = random.pick(&[[0.62, 0.10, 0.42], [0.08, 0.50, 0.52], [0.85, 0.45, 0.08]]);
    let second: Rgb = random.pick(&[[0.95, 0.85, 0.35], [0.95, 0.90, 0.92]]);
    let print = random.below(2);
    Object::flat(x, 1.15, 1.0, z, move |u, y| {
        let a = u.abs();
        let foot = y < 0.1 && (a - 0.98).abs() < 0.05;
        let arm = a > 0.88 && a < 1.13 && y > 0.08 && y < 0.64;
        let arm_top = ellipse(a, y, [1.005, 0.64], [0.13, 0.10]) > 0.0;
        let back = a < 0.92 && y > 0.1 && y < 0.92 - 0.1 * smooth(0.7, 0.95, a);
        if foot {
            return Some(([0.2, 0.13, 0.08], SOFA, 1.0));
        }
        if !(arm || arm_top || back) {
            return None;
        }
        let figure = match print {
            0 => {
                let (i, j) = ((u * 5.0).floor(), (y * 5.0).floor());
                ellipse(u * 5.0 - i, y * 5.0 - j, [0.5, 0.5], [0.33, 0.33]) > 0.0
            }
            _ => ((u + y) * 6.0).rem_euclid(1.0) < 0.4,
        };
        let seam = (y - 0.5).abs() < 0.015 || (y - 0.32).abs() < 0.012 || (a < 0.02 && y > 0.32);
        let seat = if y < 0.5 && y > 0.32 && a < 0.88 { 1.15 } else { 0.95 };
        let light =
            seat + 0.25 * (noise(u * 4.0, y * 4.0, seed) - 0.5) - 0.35 * smooth(0.3, 0.1, y);
        let base = if figure { second } else { cloth };
        Some((scale(base, if seam { light * 0.5 } else { light }), SOFA, 1.0))
    })
}

/// Three or four cardboard boxes in a pile.
fn boxes(random: &mut Random, x: f32, z: f32) -> Object {
    let seed = random.bits() as u32;
    let mut pile = Vec::new();
    for (dx, y) in [(-0.42, 0.0), (0.45, 0.0), (random.range(-0.2, 0.2), 0.0)] {
        let (half, tall) = (random.range(0.34, 0.44), random.range(0.5, 0.75));
        let y = if pile.len() == 2 { 0.62 } else { y };
        let depth = random.range(0.5, 0.8);
        pile.push((
            box_planes([x + dx - half, x + dx + half], [y, y + tall], [z, z + depth]),
            [x + dx, y, half, tall],
            scale([0.70, 0.52, 0.34], random.range(0.85, 1.1)),
        ));
    }
    Object::solid(x, 0.9, 1.4, [z, z + 0.8], move |ray: &Ray| {
        let mut best: Option<Hit> = None;
        for (planes, [cx, y, half, tall], card) in &pile {
            let Some((depth, face)) = ray.convex(planes) else { continue };
            if best.is_some_and(|b| b.z <= depth) {
                continue;
            }
            let (px, py) = ray.at(depth);
            let (a, b) = ((px - cx) / half, (py - y) / tall);
            let tape = face > 1 && a.abs() < 0.13;
            let print = face == 4
                && (0.35..0.85).contains(&a)
                && (0.12..0.42).contains(&b)
                && hash((a * 16.0) as i32, (b * 16.0) as i32, seed) < 0.55;
            let light = [0.7, 0.7, 0.5, 1.15, 0.95, 0.7][face];
            let grain = 1.0 + 0.08 * (noise(px * 3.0, py * 40.0, seed) - 0.5);
            let colour = if print {
                [0.15, 0.12, 0.1]
            } else if tape {
                [0.86, 0.78, 0.62]
            } else {
                *card
            };
            let colour = scale(colour, light * grain);
            best = Some(Hit { z: depth, colour, label: BOXES, alpha: 1.0 });
        }
        best
    })
}

fn cone(random: &mut Random, x: f32, z: f32) -> Object {
    let top = random.range(0.95, 1.3);
    Object::flat(x, 0.45, top, z, move |u, y| {
        if y < 0.09 {
            return (u.abs() < 0.42).then_some(([0.12, 0.12, 0.12], CONE, 1.0));
        }
        let half = 0.05 + 0.25 * (1.0 - y / top);
        if u.abs() > half {
            return None;
        }
        let t = y / top;
        let band = (0.36..0.52).contains(&t) || (0.68..0.80).contains(&t);
        let round = 1.1 - 0.5 * (u / half + 0.3).abs();
        let colour = if band { [0.95, 0.95, 0.95] } else { [0.98, 0.38, 0.05] };
        Some((scale(colour, round), CONE, 1.0))
    })
}

fn person(random: &mut Random, x: f32, z: f32) -> Object {
    let shirt: Rgb =
        random.pick(&[[0.85, 0.75, 0.10], [0.60, 0.15, 0.55], [0.10, 0.60, 0.40], [0.2, 0.2, 0.3]]);
    let trousers: Rgb = random.pick(&[[0.15, 0.18, 0.30], [0.30, 0.24, 0.18], [0.1, 0.1, 0.1]]);
    let skin: Rgb = random.pick(&[[0.87, 0.68, 0.55], [0.55, 0.36, 0.25], [0.74, 0.54, 0.40]]);
    let stride = random.range(0.08, 0.24);
    let seed = random.bits() as u32;
    Object::flat(x, 0.5, 1.8, z, move |u, y| {
        let light = 1.0 + 0.2 * (noise(u * 8.0, y * 8.0, seed) - 0.5) - 0.4 * u;
        let some = |c| Some((scale(c, light), PERSON, 1.0));
        if ellipse(u, y, [0.0, 1.62], [0.125, 0.16]) > 0.0 {
            return some(if y > 1.68 { mix(skin, [0.12, 0.08, 0.06], 0.9) } else { skin });
        }
        if (0.82..1.46).contains(&y) && u.abs() < 0.23 - 0.06 * (1.46 - y) {
            return some(shirt);
        }
        let arm = 0.24 + 0.22 * (1.42 - y) * stride * 4.0;
        if (0.80..1.42).contains(&y) && (u.abs() - arm).abs() < 0.06 {
            return some(if y < 0.92 { skin } else { shirt });
        }
        let spread = stride * (0.86 - y) / 0.86 + 0.07;
        if y < 0.86 && (u.abs() - spread).abs() < 0.09 {
            return some(if y < 0.07 { [0.1, 0.1, 0.1] } else { trousers });
        }
        None
    })
}

fn ball(random: &mut Random, x: f32, z: f32) -> Object {
    let r = random.range(0.55, 0.9);
    let colours: [Rgb; 3] = random.pick(&[
        [[0.95, 0.15, 0.50], [0.98, 0.90, 0.15], [0.10, 0.75, 0.90]],
        [[0.55, 0.10, 0.85], [0.98, 0.95, 0.95], [0.98, 0.55, 0.05]],
    ]);
    let turn = random.range(-0.5, 0.5);
    Object::flat(x, r, 2.0 * r, z, move |u, y| {
        let (a, b) = (u / r, y / r - 1.0);
        let d = 1.0 - a * a - b * b;
        if d < 0.0 {
            return None;
        }
        let depth = d.sqrt();
        // Segments between meridians of a ball whose pole looks up and a little to the camera.
        let (east, north) = (a + turn * b, depth * 0.8 + 0.6 * b);
        let sector = match (east > 0.0, north > 0.0, east.abs() > north.abs()) {
            (true, _, true) => 0,
            (false, _, true) => 1,
            (_, true, false) => 2,
            (_, false, false) => 0,
        };
        let light = 0.65 + 0.35 * depth + 0.25 * b;
        Some((scale(colours[sector], light), BALL, 1.0))
    })
}

//! What stands in a street and is trained on: cars, trees, hedges, lamps and signs.

use super::camera::{Ray, box_planes};
use super::colour::{Rgb, mix, scale};
use super::object::{Hit, Object};
use super::random::{Random, cloud, hash, noise, smooth};
use super::{CAR, POLE, SIGN, VEGETATION};

const PAINTS: [Rgb; 6] = [
    [0.72, 0.12, 0.12],
    [0.14, 0.24, 0.50],
    [0.86, 0.86, 0.86],
    [0.12, 0.13, 0.14],
    [0.55, 0.57, 0.60],
    [0.36, 0.37, 0.40],
];

/// A car along the street, its middle at (x, z): a bevelled body and a tapered cabin.
pub fn car(random: &mut Random, x: f32, z: f32, oncoming: bool) -> Object {
    let (half, length) = (random.range(0.86, 0.98), random.range(3.7, 4.8));
    let (waist, top) = (random.range(0.80, 0.98), random.range(1.38, 1.72));
    let (front, back) = (z - length / 2.0, z + length / 2.0);
    let paint = random.pick(&PAINTS);
    let van = random.chance(0.2);

    let mut body = box_planes([x - half, x + half], [0.22, waist], [front, back]).to_vec();
    // Bevels along the upper edges.
    let k = std::f32::consts::FRAC_1_SQRT_2;
    body.push([k, k, 0.0, k * (x + half + waist - 0.12)]);
    body.push([-k, k, 0.0, k * (half - x + waist - 0.12)]);
    body.push([0.0, k, -k, k * (waist - front - 0.12)]);
    let cabin_front = front + if van { 0.15 } else { random.range(0.35, 0.9) };
    let cabin_back = back - if van { 0.6 } else { random.range(0.5, 1.0) };
    let lean = if van { 0.2 } else { 0.55 };
    let cabin = vec![
        [0.0, 1.0, 0.0, top],
        [1.0, 0.22, 0.0, x + half - 0.06 + 0.22 * waist],
        [-1.0, 0.22, 0.0, half - 0.06 - x + 0.22 * waist],
        [0.0, lean, -1.0, lean * waist - cabin_front],
        [0.0, lean, 1.0, lean * waist + cabin_back],
        [0.0, -1.0, 0.0, -waist + 0.1],
    ];
    let look = move |ray: &Ray| {
        let solid = |hit: Option<(f32, usize)>| hit.unwrap_or((f32::MAX, 0));
        let (zb, face_b) = solid(ray.convex(&body));
        let (zc, face_c) = solid(ray.convex(&cabin));
        let hit = |z, colour| Some(Hit { z, colour, label: CAR, alpha: 1.0 });
        if zc < zb {
            let (px, py) = ray.at(zc);
            let (across, up) = ((px - x) / half, (py - waist) / (top - waist));
            let along = (zc - z) / length;
            let glass = match face_c {
                1 | 2 => up > 0.1 && up < 0.82 && along.abs() < 0.36 && (along - 0.02).abs() > 0.02,
                3 | 4 => up > 0.08 && up < 0.86 && across.abs() < 0.74 - 0.1 * up,
                _ => false,
            };
            let shine = mix([0.08, 0.10, 0.13], [0.62, 0.70, 0.78], smooth(0.2, 1.3, up));
            let shade = [1.1, 0.85, 0.85, 0.95, 0.9, 0.9][face_c];
            return hit(zc, if glass { shine } else { scale(paint, shade) });
        }
        if zb == f32::MAX {
            return wheels_under(ray, x, half, front, back);
        }
        let (px, py) = ray.at(zb);
        let side = face_b < 2;
        // Wheels on the flanks.
        if side {
            let foot = (zb - front - 0.8).abs().min((zb - back + 0.8).abs());
            let r = (foot * foot + (py - 0.32) * (py - 0.32)).sqrt();
            if r < 0.2 {
                return hit(zb, [0.55, 0.56, 0.58]);
            }
            if r < 0.34 {
                return hit(zb, [0.05, 0.05, 0.05]);
            }
        }
        let across = (px - x) / half;
        if face_b == 4 || face_b == 8 {
            let lamp = across.abs() > 0.62 && across.abs() < 0.94 && py > 0.55 && py < 0.74;
            if lamp {
                return hit(zb, if oncoming { [0.96, 0.95, 0.86] } else { [0.78, 0.08, 0.07] });
            }
            if across.abs() < 0.28 && py > 0.42 && py < 0.55 {
                return hit(zb, [0.92, 0.91, 0.84]);
            }
            if oncoming && across.abs() < 0.5 && py > 0.56 && py < 0.7 {
                return hit(zb, [0.12, 0.12, 0.13]);
            }
        }
        if py < 0.38 {
            return hit(zb, [0.14, 0.14, 0.15]);
        }
        let light = match face_b {
            3 | 6.. => 1.18,
            4 => 0.92,
            _ => 0.8,
        };
        hit(zb, scale(paint, light * (0.88 + 0.2 * smooth(0.4, 0.9, py))))
    };
    Object::solid(x, half + 0.05, top, [front, back], look)
}

/// Below the body: the tyres seen from the front or back, and the dark between them.
fn wheels_under(ray: &Ray, x: f32, half: f32, front: f32, back: f32) -> Option<Hit> {
    for z in [front + 0.5, back - 0.5] {
        let (px, py) = ray.at(z);
        let across = (px - x).abs();
        if (0.0..0.3).contains(&py) && across < half - 0.04 && across > half - 0.28 {
            return Some(Hit { z, colour: [0.05, 0.05, 0.05], label: CAR, alpha: 1.0 });
        }
    }
    None
}

/// A crown of leaves with a ragged, half-transparent rim; `trunk` is its clear height.
pub fn tree(random: &mut Random, x: f32, z: f32, trunk: f32, half: f32) -> Object {
    let seed = random.bits() as u32;
    let tall = half * random.range(1.7, 2.5);
    let top = trunk + tall;
    let leaf = match random.below(6) {
        0 => [0.46, 0.44, 0.14],
        1 => [0.16, 0.30, 0.16],
        _ => [random.range(0.18, 0.30), random.range(0.36, 0.50), random.range(0.10, 0.20)],
    };
    let stem = 0.06 + half * 0.06;
    Object::flat(x, half, top, z, move |u, y| {
        let (a, b) = (u / half, (y - trunk) / tall * 2.0 - 1.0);
        let lump = cloud(u * 1.1 + x, y * 1.1 + z, seed) - 0.5;
        let fine = noise(u * 7.0, y * 7.0, seed ^ 1) - 0.5;
        let rim = 1.0 - (a * a + b * b) + 1.1 * lump + 0.55 * fine;
        let alpha = smooth(0.12, 0.42, rim);
        if alpha > 0.03 {
            let light = 0.72 + 0.45 * fine + 0.9 * lump + 0.28 * b - 0.12 * a;
            return Some((scale(leaf, light.clamp(0.25, 1.5)), VEGETATION, alpha));
        }
        let bark = scale([0.34, 0.26, 0.19], 0.8 + 0.5 * noise(u * 30.0, y * 3.0, seed));
        (y < trunk + tall * 0.4 && u.abs() < stem).then_some((bark, VEGETATION, 1.0))
    })
}

/// A clipped hedge along the pavement.
pub fn hedge(random: &mut Random, x: f32, z: [f32; 2]) -> Object {
    let (top, seed) = (random.range(0.7, 1.5), random.bits() as u32);
    let planes = box_planes([x - 0.4, x + 0.4], [0.0, top], z);
    let leaf = [random.range(0.16, 0.26), random.range(0.34, 0.46), random.range(0.10, 0.17)];
    Object::solid(x, 0.45, top, z, move |ray| {
        let (z, face) = ray.convex(&planes)?;
        let (px, py) = ray.at(z);
        let v = if face < 2 { z } else { px };
        let speck = noise(v * 9.0, py * 9.0, seed) + 0.5 * noise(v * 2.0, py * 2.0, seed);
        let alpha = smooth(0.0, 0.12, top - py + 0.12 * (speck - 0.75));
        let light = 0.45 + 0.55 * speck + 0.15 * py;
        Some(Hit { z, colour: scale(leaf, light), label: VEGETATION, alpha })
    })
}

/// A lamp post, its arm over the road.
pub fn lamp(random: &mut Random, x: f32, z: f32) -> Object {
    let top = random.range(5.0, 7.5);
    let arm = if x < 0.0 { 1.0 } else { -1.0 } * random.range(0.8, 1.6);
    let grey = random.range(0.22, 0.5);
    Object::flat(x, arm.abs() + 0.3, top, z, move |u, y| {
        let post = u.abs() < if y < 0.8 { 0.11 } else { 0.065 };
        let along = u / arm;
        let bar = (0.0..1.0).contains(&along) && (top - 0.16 - y).abs() < 0.05;
        let head = (0.8..1.15).contains(&along) && (top - 0.15 - y).abs() < 0.12;
        let round = 1.1 - 3.0 * u.abs().min(0.1);
        (post || bar || head).then_some((
            [grey * round, grey * round, grey * 1.04 * round],
            POLE,
            1.0,
        ))
    })
}

/// A traffic sign on a post: a ringed disc, a triangle or a blue board.
pub fn sign(random: &mut Random, x: f32, z: f32) -> Object {
    let (kind, size) = (random.below(3), random.range(0.36, 0.5));
    let middle = random.range(2.1, 2.7);
    let seed = random.bits() as u32;
    Object::flat(x, size * 1.1, middle + size, z, move |u, y| {
        let (a, b) = (u / size, (y - middle) / size);
        let white = [0.93, 0.93, 0.92];
        let red = [0.80, 0.10, 0.11];
        let ink = hash((a * 4.0).floor() as i32, (b * 3.0).floor() as i32, seed) < 0.4;
        let r = (a * a + b * b).sqrt();
        let face = match kind {
            0 if r < 0.66 => Some(if ink && r < 0.5 { [0.1, 0.1, 0.1] } else { white }),
            0 if r < 0.95 => Some(red),
            1 if b > -0.8 && a.abs() < (0.9 - b) * 0.56 => {
                let inner = b > -0.52 && a.abs() < (0.5 - b) * 0.50;
                Some(if inner { white } else { red })
            }
            2 if a.abs() < 0.85 && b.abs() < 0.85 => {
                let rim = a.abs() > 0.76 || b.abs() > 0.76;
                Some(if rim || (ink && r < 0.6) { white } else { [0.10, 0.26, 0.62] })
            }
            _ => None,
        };
        if let Some(colour) = face {
            return Some((colour, SIGN, 1.0));
        }
        (u.abs() < 0.045 && y < middle).then_some(([0.56, 0.57, 0.58], POLE, 1.0))
    })
}

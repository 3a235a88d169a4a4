//! The street itself: ground, buildings and what closes the view.

use super::camera::{Ray, box_planes};
use super::colour::{Rgb, mix, scale};
use super::light::Light;
use super::object::Hit;
use super::random::{Random, cloud, hash, noise, smooth};
use super::{BUILDING, MARKING, PAVEMENT, ROAD, SKY, VEGETATION};

pub struct Street {
    /// Half the road's width, and where the pavement ends (m from the middle).
    pub road: f32,
    pub pavement: f32,
    buildings: Vec<Building>,
    asphalt: Rgb,
    slabs: Rgb,
    grass: Rgb,
    /// How far (m) the edge between road and pavement wanders, and over how much it blends.
    ragged: f32,
    blend: f32,
    /// Depth at which a zebra crossing begins.
    zebra: Option<f32>,
    /// The share of the paint that has worn off.
    wear: f32,
    edge_lines: bool,
    garden: bool,
    seed: u32,
}

struct Building {
    x: [f32; 2],
    z: [f32; 2],
    height: f32,
    planes: [[f32; 4]; 6],
    wall: Rgb,
    trim: Rgb,
    roof: Rgb,
    /// Width and height of a window's cell (m), and the window's share of it.
    cell: [f32; 2],
    window: [f32; 2],
    brick: bool,
    seed: u32,
}

const WALLS: [Rgb; 9] = [
    [0.80, 0.72, 0.60],
    [0.62, 0.36, 0.29],
    [0.72, 0.46, 0.36],
    [0.86, 0.83, 0.76],
    [0.56, 0.55, 0.55],
    [0.70, 0.66, 0.58],
    [0.78, 0.62, 0.44],
    [0.50, 0.42, 0.38],
    [0.66, 0.70, 0.72],
];

impl Street {
    pub fn new(random: &mut Random) -> Street {
        let road = random.range(3.2, 4.6);
        let pavement = road + random.range(1.6, 3.0);
        let garden = random.chance(0.5);
        let mut buildings = Vec::new();
        for side in [-1.0f32, 1.0] {
            let front = pavement + if garden { random.range(0.8, 3.0) } else { 0.05 };
            let mut z = random.range(-8.0, 2.0);
            while z < 110.0 {
                let length = random.range(7.0, 17.0);
                if random.chance(0.78) {
                    buildings.push(Building::new(random, side, front, [z, z + length]));
                }
                z += length + if random.chance(0.3) { random.range(1.0, 5.0) } else { 0.0 };
            }
        }
        buildings.sort_by(|a, b| a.z[0].total_cmp(&b.z[0]));
        let grey = random.range(0.26, 0.40);
        let slab = random.range(0.48, 0.66);
        let warm = random.range(-0.01, 0.04);
        Street {
            road,
            pavement,
            buildings,
            asphalt: [grey, grey, grey + random.range(-0.01, 0.03)],
            slabs: [slab + warm, slab, slab - warm],
            grass: [random.range(0.24, 0.40), random.range(0.42, 0.54), random.range(0.14, 0.22)],
            ragged: if random.chance(0.4) { random.range(0.4, 1.0) } else { 0.06 },
            blend: if random.chance(0.4) { random.range(0.3, 0.8) } else { 0.02 },
            zebra: random.chance(0.35).then(|| random.range(7.0, 22.0)),
            wear: random.range(0.05, 0.5),
            edge_lines: random.chance(0.5),
            garden,
            seed: random.bits() as u32,
        }
    }

    /// What a ray sees where no object stands in its way; no air in between yet.
    pub fn look(&self, ray: &Ray, light: &Light) -> Hit {
        let ground = ray.ground().unwrap_or(f32::MAX);
        let mut best: Option<(f32, usize, &Building)> = None;
        for building in &self.buildings {
            let limit = best.map_or(ground, |b| b.0).min(ground);
            if building.z[0] > limit {
                break;
            }
            if let Some((z, face)) = ray.convex(&building.planes)
                && z < limit
            {
                best = Some((z, face, building));
            }
        }
        if let Some((z, face, building)) = best {
            let (x, y) = ray.at(z);
            let colour = building.paint(face, x, y, z, light);
            return Hit { z, colour, label: BUILDING, alpha: 1.0 };
        }
        if ground < 140.0 {
            let (colour, label) = self.ground(ray.x * ground, ground, light);
            return Hit { z: ground, colour, label, alpha: 1.0 };
        }
        self.backdrop(ray, light)
    }

    /// The far end: a line of woods or roofs against the sky.
    fn backdrop(&self, ray: &Ray, light: &Light) -> Hit {
        let woods = hash(1, 2, self.seed) < 0.5;
        let line = if woods {
            0.03 + 0.07 * cloud(ray.x * 9.0, 3.0, self.seed)
        } else {
            0.02 + 0.09 * hash((ray.x * 14.0).floor() as i32, 7, self.seed)
        };
        if -ray.y > line {
            return Hit { z: 0.0, colour: light.sky(ray), label: SKY, alpha: 1.0 };
        }
        let speck = noise(ray.x * 120.0, ray.y * 120.0, self.seed);
        let (colour, label) = if woods {
            (scale([0.22, 0.34, 0.18], 0.7 + 0.6 * speck), VEGETATION)
        } else {
            (scale([0.50, 0.46, 0.44], 0.85 + 0.3 * speck), BUILDING)
        };
        Hit { z: 140.0, colour, label, alpha: 1.0 }
    }

    fn ground(&self, x: f32, z: f32, light: &Light) -> (Rgb, u8) {
        // Fine grain would only alias far away.
        let near = 1.0 - smooth(10.0, 45.0, z);
        let grain =
            (hash((x * 40.0).floor() as i32, (z * 40.0).floor() as i32, self.seed) - 0.5) * near;
        let patch = cloud(x * 0.5, z * 0.35, self.seed) - 0.5;
        let a = x.abs();
        let edge = self.road + (noise(x * 0.4 + 9.0, z * 1.3, self.seed ^ 3) - 0.5) * self.ragged;

        let track = smooth(0.55, 0.15, (a - self.road * 0.48).abs()) * 0.04;
        let asphalt = scale(self.asphalt, 1.0 + 0.22 * grain + 0.35 * patch - track);
        let joint = |v: f32, size: f32| smooth(0.07, 0.02, (v / size - (v / size).round()).abs());
        let lines = joint(x, 0.6).max(joint(z, 0.9)) * near * 0.16;
        let slab = hash((x / 0.6).round() as i32, (z / 0.9).round() as i32, self.seed) - 0.5;
        let slabs = scale(self.slabs, 1.0 + 0.1 * grain + 0.2 * patch - lines + 0.06 * slab * near);

        let (mut colour, label) = if a < edge {
            match self.paint(x, z) {
                true => (scale([0.88, 0.88, 0.84], 0.92 + 0.2 * grain), MARKING),
                false => (mix(asphalt, slabs, 0.5 * smooth(-self.blend, 0.0, a - edge)), ROAD),
            }
        } else if a < self.pavement {
            let kerb = if self.ragged < 0.1 { smooth(0.2, 0.16, a - edge) } else { 0.0 };
            let slabs = mix(asphalt, slabs, 0.5 + 0.5 * smooth(0.0, self.blend, a - edge));
            (mix(slabs, [0.70, 0.70, 0.68], 0.6 * kerb), PAVEMENT)
        } else if self.garden || a > self.pavement + 3.0 {
            let blades = noise(x * 16.0, z * 7.0, self.seed) - 0.5;
            (scale(self.grass, 1.0 + 0.5 * blades * (0.3 + 0.7 * near) + 0.6 * patch), VEGETATION)
        } else {
            (slabs, PAVEMENT)
        };
        if light.wet > 0.0 && label != VEGETATION {
            let deep = smooth(0.48, 0.62, cloud(x * 0.45 + 5.0, z * 0.3, self.seed ^ 9));
            colour = scale(colour, 1.0 - 0.25 * light.wet);
            colour = mix(colour, light.reflection(), light.wet * deep * 0.55);
        }
        (scale(colour, 1.0 - light.shadow * self.shade(x, z, light.slant)), label)
    }

    fn paint(&self, x: f32, z: f32) -> bool {
        let a = x.abs();
        let dash = a < 0.09 && z - (z / 5.0).floor() * 5.0 < 2.6;
        let edge = self.edge_lines && (a - (self.road - 0.45)).abs() < 0.07;
        let zebra = self.zebra.is_some_and(|from| {
            (from..from + 3.2).contains(&z)
                && (x + 50.0).rem_euclid(1.0) < 0.5
                && a < self.road - 0.3
        });
        (dash || edge || zebra) && noise(x * 5.0, z * 3.0, self.seed ^ 5) > self.wear
    }

    /// How deep in the buildings' shadow a point of the ground is.
    fn shade(&self, x: f32, z: f32, slant: f32) -> f32 {
        if slant == 0.0 {
            return 0.0;
        }
        let mut deepest = 0.0f32;
        for b in self.buildings.iter().filter(|b| b.z[0] < z && z < b.z[1]) {
            let (wall, slope) = if b.x[0] > 0.0 { (b.x[0], -slant) } else { (b.x[1], slant) };
            // Metres inside the shadow's edge.
            let inside = b.height.min(9.0) * slope * 0.6 - (x - wall).abs();
            deepest = deepest.max(smooth(-0.15, 0.15, inside));
        }
        deepest
    }
}

impl Building {
    fn new(random: &mut Random, side: f32, front: f32, z: [f32; 2]) -> Building {
        let setback = if random.chance(0.3) { random.range(0.3, 1.5) } else { 0.0 };
        let near = side * (front + setback);
        let far = near + side * 11.0;
        let x = [near.min(far), near.max(far)];
        let cell = [random.range(1.7, 3.2), random.range(2.7, 3.4)];
        let floors = 1.0 + random.below(5) as f32;
        let height = cell[1] * floors + random.range(0.6, 1.6);
        let wall = scale(random.pick(&WALLS), random.range(0.85, 1.12));
        Building {
            x,
            z,
            height,
            planes: box_planes(x, [-1.0, height], z),
            wall,
            trim: if random.chance(0.6) { [0.86, 0.85, 0.82] } else { scale(wall, 0.7) },
            roof: random.pick(&[[0.42, 0.24, 0.19], [0.30, 0.30, 0.33], [0.36, 0.29, 0.25]]),
            cell,
            window: [random.range(0.35, 0.62), random.range(0.42, 0.62)],
            brick: random.chance(0.4),
            seed: random.bits() as u32,
        }
    }

    fn paint(&self, face: usize, x: f32, y: f32, z: f32, light: &Light) -> Rgb {
        let street_side = face < 2;
        let along = if street_side { z - self.z[0] } else { x - self.x[0] };
        let near = 1.0 - smooth(12.0, 50.0, z);
        // Which faces the sun reaches: it stands where the shadows point away from.
        let lit = match face {
            0 if light.slant > 0.0 => 1.06,
            1 if light.slant < 0.0 => 1.06,
            0 | 1 if light.slant != 0.0 => 0.72,
            0 | 1 => 0.92,
            _ => 0.80,
        };
        let stain = cloud(along * 0.35, y * 0.5, self.seed) - 0.5;
        let mut colour = scale(self.wall, 1.0 + 0.3 * stain);
        if self.brick {
            let row = (y / 0.22).floor();
            let shift = if (row as i32) % 2 == 0 { 0.0 } else { 0.25 };
            let tone = hash(((along + shift) / 0.5).floor() as i32, row as i32, self.seed) - 0.5;
            colour = scale(colour, 1.0 + 0.30 * tone * near);
        }
        let from_top = self.height - y;
        if from_top < 0.55 {
            return scale(self.roof, lit * if from_top < 0.12 { 1.15 } else { 0.95 });
        }
        // Dirt at the foot.
        colour = scale(colour, 0.8 + 0.2 * smooth(0.0, 0.7, y));
        let (i, j) = ((along / self.cell[0]).floor(), (y / self.cell[1]).floor());
        let (u, v) = (along / self.cell[0] - i - 0.5, y / self.cell[1] - j - 0.52);
        let shop = j < 1.0 && hash(i as i32, 3, self.seed) < 0.45;
        let [w, h] = if shop { [0.8, 0.74] } else { self.window };
        let (du, dv) = (u.abs() / w * 2.0, v.abs() / h * 2.0);
        let end = if street_side { self.z[1] - self.z[0] } else { 11.0 };
        let complete = i >= 0.0 && (i + 1.0) * self.cell[0] < end;
        if complete && du < 1.0 && dv < 1.0 && y > 0.25 && face != 5 {
            let bar = u.abs() < 0.02 || du > 0.88 || dv > 0.9;
            let pane = hash(i as i32, j as i32, self.seed);
            colour = if bar {
                self.trim
            } else if pane < 0.12 {
                [0.93, 0.82, 0.55]
            } else {
                let glass =
                    mix([0.10, 0.13, 0.17], light.reflection(), 0.15 + 0.5 * (v + 0.3).max(0.0));
                mix(glass, self.wall, 0.3 * (pane - 0.12))
            };
        } else if complete && !shop && du < 1.25 && dv < 1.25 {
            colour = mix(colour, self.trim, 0.6);
        }
        scale(colour, lit)
    }
}

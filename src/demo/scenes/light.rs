//! The light of a scene: sky, sun, fog and how wet the ground is.

use super::camera::Ray;
use super::colour::{Rgb, mix, scale, tint};
use super::random::{Random, cloud, smooth};

pub struct Light {
    zenith: Rgb,
    horizon: Rgb,
    tint: Rgb,
    /// Depth (m) at which half of what is seen is fog.
    fog: f32,
    /// Where shadows fall: metres to the right per metre of height; 0 under an overcast sky.
    pub slant: f32,
    /// How much of the light a shadow takes.
    pub shadow: f32,
    pub wet: f32,
    clouds: f32,
    seed: u32,
}

impl Light {
    pub fn new(random: &mut Random) -> Light {
        let seed = random.bits() as u32;
        let (zenith, horizon, sun, clouds) = match random.below(10) {
            // Clear, overcast, low sun.
            0..=4 => ([0.28, 0.50, 0.82], [0.72, 0.84, 0.93], [1.04, 1.0, 0.94], 0.8),
            5..=7 => ([0.62, 0.66, 0.70], [0.80, 0.82, 0.83], [0.86, 0.88, 0.90], 0.3),
            _ => ([0.36, 0.42, 0.66], [0.96, 0.76, 0.58], [1.05, 0.86, 0.72], 0.9),
        };
        let overcast = clouds < 0.5;
        let side = if random.chance(0.5) { 1.0 } else { -1.0 };
        Light {
            zenith,
            horizon,
            tint: scale(sun, random.range(0.8, 1.1)),
            fog: if random.chance(0.3) {
                random.range(35.0, 70.0)
            } else {
                random.range(90.0, 220.0)
            },
            slant: if overcast { 0.0 } else { side * random.range(0.25, 1.1) },
            shadow: if overcast { 0.22 } else { random.range(0.38, 0.55) },
            wet: if random.chance(0.35) { random.range(0.5, 1.0) } else { 0.0 },
            clouds,
            seed,
        }
    }

    /// The sky along a ray that looks up (`ray.y < 0`) or near the horizon.
    pub fn sky(&self, ray: &Ray) -> Rgb {
        let up = smooth(-0.02, 0.55, -ray.y);
        let clear = mix(self.horizon, self.zenith, up);
        // Clouds lie on a plane far above: they shrink towards the horizon.
        let k = 1.0 / (0.12 - ray.y.min(0.0));
        let c = cloud(ray.x * k * 1.1 + 40.0, k * 1.6, self.seed);
        mix(clear, [0.97, 0.97, 0.98], self.clouds * smooth(0.5, 0.8, c) * (0.3 + 0.7 * up))
    }

    /// The colour of a surface at depth `z` as it reaches the camera.
    pub fn through_air(&self, surface: Rgb, z: f32) -> Rgb {
        let t = z / self.fog;
        mix(tint(surface, self.tint), self.horizon, t * t / (1.0 + t * t))
    }

    /// What a horizontal mirror would show.
    pub fn reflection(&self) -> Rgb {
        mix(self.horizon, self.zenith, 0.35)
    }
}

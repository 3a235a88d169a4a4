//! A thing that stands in the street: where it stands, and what a ray sees of it.

use super::camera::Ray;
use super::colour::Rgb;

/// What a ray sees.
#[derive(Clone, Copy)]
pub struct Hit {
    pub z: f32,
    pub colour: Rgb,
    pub label: u8,
    /// How much of what lies behind is hidden.
    pub alpha: f32,
}

type Look = Box<dyn Fn(&Ray) -> Option<Hit> + Send + Sync>;

pub struct Object {
    /// Its middle, half its width and its height (m).
    pub x: f32,
    pub half: f32,
    pub top: f32,
    /// Its nearest and farthest depth (m).
    pub z: [f32; 2],
    look: Look,
}

impl Object {
    pub fn solid(
        x: f32,
        half: f32,
        top: f32,
        z: [f32; 2],
        look: impl Fn(&Ray) -> Option<Hit> + Send + Sync + 'static,
    ) -> Object {
        Object { x, half, top, z, look: Box::new(look) }
    }

    /// A flat thing that faces the camera: `paint` takes metres to the right of its middle and
    /// above the ground and gives (colour, label, alpha).
    pub fn flat(
        x: f32,
        half: f32,
        top: f32,
        z: f32,
        paint: impl Fn(f32, f32) -> Option<(Rgb, u8, f32)> + Send + Sync + 'static,
    ) -> Object {
        let look = move |ray: &Ray| {
            let (at, up) = ray.at(z);
            let u = at - x;
            if up < 0.0 || up > top || u.abs() > half {
                return None;
            }
            let (colour, label, alpha) = paint(u, up)?;
            Some(Hit { z, colour, label, alpha })
        };
        // The depth range gives its shadow some body.
        Object { x, half, top, z: [z - 0.2, z + 0.2], look: Box::new(look) }
    }

    pub fn look(&self, ray: &Ray) -> Option<Hit> {
        (self.look)(ray)
    }

    /// How much of the light at the ground point (x, z) it takes: a soft ellipse around its foot,
    /// pushed aside by a slanting sun.
    pub fn shade(&self, x: f32, z: f32, slant: f32) -> f32 {
        let middle = 0.5 * (self.z[0] + self.z[1]);
        let (rx, rz) = (self.half * 1.1 + 0.15, 0.5 * (self.z[1] - self.z[0]) + 0.35);
        let shadow = slant * self.top.min(3.0);
        // Distance to the segment from the foot to the shadow's end, x only.
        let along = (x - self.x).clamp(shadow.min(0.0), shadow.max(0.0));
        let (dx, dz) = ((x - self.x - along) / rx, (z - middle) / rz);
        1.0 - super::random::smooth(0.55, 1.1, dx * dx + dz * dz)
    }
}

//! The camera: a pinhole above a flat street, looking along it.
//!
//! World: x right, y up, z ahead (metres), the camera at (0, height, 0). A ray is the line of points
//! `(x z, height - y z, z)`, z > 0, with `x = (column - centre) / focal`, `y = (row - horizon) / focal`.

use crate::ops::Size;

#[derive(Clone, Copy)]
pub struct Camera {
    pub height: f32,
    /// In pixels, as are `centre` (column of the vanishing point) and `horizon` (its row).
    pub focal: f32,
    pub centre: f32,
    pub horizon: f32,
}

/// The line of sight of one sample.
#[derive(Clone, Copy)]
pub struct Ray {
    pub x: f32,
    pub y: f32,
    pub height: f32,
}

impl Camera {
    pub fn ray(&self, column: f32, row: f32) -> Ray {
        Ray {
            x: (column - self.centre) / self.focal,
            y: (row - self.horizon) / self.focal,
            height: self.height,
        }
    }

    /// Rows and columns (half-open) that a thing standing at depth `z`, `x` to either side of
    /// `middle` and `top` high, can cover.
    pub fn frame(&self, middle: f32, x: f32, top: f32, z: [f32; 2], size: Size) -> Frame {
        let column = |x: f32, z: f32| self.centre + x / z * self.focal;
        let row = |y: f32, z: f32| self.horizon + (self.height - y) / z * self.focal;
        let span = |a: f32, b: f32, end: usize| {
            let (low, high) = if a < b { (a, b) } else { (b, a) };
            // `as` saturates at 0 below.
            ((low - 1.0) as usize, ((high + 2.0) as usize).min(end))
        };
        let [near, far] = z;
        let left = column(middle - x, near).min(column(middle - x, far));
        let right = column(middle + x, near).max(column(middle + x, far));
        let upper = row(top, near).min(row(top, far));
        Frame { columns: span(left, right, size.w), rows: span(upper, row(0.0, near), size.h) }
    }
}

#[derive(Clone, Copy)]
pub struct Frame {
    pub columns: (usize, usize),
    pub rows: (usize, usize),
}

impl Frame {
    pub fn contains(&self, column: usize, row: usize) -> bool {
        (self.columns.0..self.columns.1).contains(&column)
            && (self.rows.0..self.rows.1).contains(&row)
    }
}

impl Ray {
    /// Where the ray is at depth `z`: (x, y).
    pub fn at(&self, z: f32) -> (f32, f32) {
        (self.x * z, self.height - self.y * z)
    }

    /// Depth at which it meets the ground, if it looks down.
    pub fn ground(&self) -> Option<f32> {
        (self.y > 1e-4).then(|| self.height / self.y)
    }

    /// Where the ray first meets the convex body of the points p with `n . p <= d` for every plane
    /// `[n.x, n.y, n.z, d]`: depth and the index of the plane met.
    pub fn convex(&self, planes: &[[f32; 4]]) -> Option<(f32, usize)> {
        let (mut enter, mut exit, mut face) = (0.1f32, f32::MAX, usize::MAX);
        for (i, [nx, ny, nz, d]) in planes.iter().enumerate() {
            // n . (x z, height - y z, z) = slope z + ny height <= d
            let slope = nx * self.x - ny * self.y + nz;
            let room = d - ny * self.height;
            if slope > 1e-6 {
                exit = exit.min(room / slope);
            } else if slope < -1e-6 {
                let z = room / slope;
                if z > enter {
                    (enter, face) = (z, i);
                }
            } else if room < 0.0 {
                return None;
            }
        }
        (face != usize::MAX && enter < exit).then_some((enter, face))
    }
}

/// The planes of the box `x0..x1, y0..y1, z0..z1`: left, right, bottom, top, front (near), back.
pub fn box_planes(x: [f32; 2], y: [f32; 2], z: [f32; 2]) -> [[f32; 4]; 6] {
    [
        [-1.0, 0.0, 0.0, -x[0]],
        [1.0, 0.0, 0.0, x[1]],
        [0.0, -1.0, 0.0, -y[0]],
        [0.0, 1.0, 0.0, y[1]],
        [0.0, 0.0, -1.0, -z[0]],
        [0.0, 0.0, 1.0, z[1]],
    ]
}

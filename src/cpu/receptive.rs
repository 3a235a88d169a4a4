//! Receptive fields of a dense convolution as rows of an implicit GEMM: one contiguous run of channels per tap, read in
//! place. Where the input has few channels (the stem) the fields of a few pixels are copied together instead, so
//! that they are one run each.

use bytemuck::Zeroable;

use super::gemm::ROWS;
use super::tensor::{Input, Shape};
use crate::ops::Conv2d;

/// The taps of a convolution.
pub struct Taps {
    pub conv: Conv2d,
    pub offsets: Vec<Offset>,
    /// Elements that a tap reads.
    pub depth: usize,
}

/// Where a tap reads, relative to the top left of the receptive field.
#[derive(Clone, Copy)]
pub struct Offset {
    pub y: isize,
    pub x: isize,
}

/// Where the receptive field of an output pixel begins.
#[derive(Clone, Copy)]
pub struct Place {
    pub image: usize,
    pub top: isize,
    pub left: isize,
}

impl Taps {
    pub fn new(conv: Conv2d) -> Self {
        assert!(!conv.depthwise, "a depthwise convolution has its own path");
        let step = |i: usize| (i * conv.dilation) as isize;
        let offsets = (0..conv.kernel * conv.kernel)
            .map(|tap| Offset { y: step(tap / conv.kernel), x: step(tap % conv.kernel) })
            .collect();
        Taps { conv, offsets, depth: conv.in_channels }
    }

    /// Elements of a receptive field.
    pub fn all(&self) -> usize {
        self.offsets.len() * self.depth
    }

    /// Whether the fields are copied together: short runs cost more than the copy.
    pub fn gathers(&self) -> bool {
        self.conv.kernel > 1 && self.depth <= 8
    }

    /// Whether output pixel i reads input pixel i alone.
    pub fn pointwise(&self) -> bool {
        self.conv.kernel == 1 && self.conv.stride == 1 && self.conv.padding == 0
    }

    /// Output pixels of a task of `pixels` in all, `bytes` being the size of an element.
    ///
    /// Weights that stay in a core's L2 cache: small enough to balance and for the task's input to stay there too. Larger
    /// ones come from memory in each task, and nothing hides that from the first rows: few tasks.
    pub fn task_pixels(&self, pixels: usize, bytes: usize) -> usize {
        const WEIGHT_BYTES: usize = 512 << 10;
        const INPUT_BYTES: usize = 384 << 10;
        let threads = rayon::current_num_threads();
        let (tasks, most) = if self.all() * self.conv.out_channels * bytes <= WEIGHT_BYTES {
            (4, INPUT_BYTES / (self.depth * self.conv.stride.pow(2) * bytes))
        } else {
            (2, usize::MAX)
        };
        pixels.div_ceil(tasks * threads).min(most).clamp(48, 1536).next_multiple_of(ROWS)
    }

    /// The places of output pixels `start`, `start + 1`, ..., counted over the batch.
    pub fn places(&self, y: &Shape, start: usize) -> impl Iterator<Item = Place> + use<> {
        let (size, Conv2d { stride, padding, .. }) = (y.size, self.conv);
        let (mut image, rest) = (start / size.pixels(), start % size.pixels());
        let (mut row, mut column) = (rest / size.w, rest % size.w);
        std::iter::from_fn(move || {
            let origin = |i: usize| (i * stride) as isize - padding as isize;
            let place = Place { image, top: origin(row), left: origin(column) };
            column += 1;
            if column == size.w {
                (row, column) = (row + 1, 0);
            }
            if row == size.h {
                (image, row) = (image + 1, 0);
            }
            Some(place)
        })
    }

    /// Copies the receptive field at a place: `[tap, channel]`, zeros outside the image. `out` may be longer: what
    /// follows the field is overwritten.
    pub fn gather<T: Zeroable + Copy>(&self, x: &Input<T>, place: Place, out: &mut [T]) {
        /// Copies of whole vectors; their excess is overwritten by the next run.
        const CHUNK: usize = 32;
        let Conv2d { kernel, dilation, .. } = self.conv;
        let run = kernel * self.depth;
        let inside = place.top >= 0
            && place.left >= 0
            && place.top as usize + (kernel - 1) * dilation < x.size.h
            && place.left as usize + kernel <= x.size.w;
        let dense = dilation == 1 && x.count == x.channels && run <= CHUNK;
        for r in 0..kernel {
            let y = place.top + (r * dilation) as isize;
            let to = &mut out[r * run..];
            if dense && inside {
                let line = (place.image * x.size.h + y as usize) * x.size.w;
                let from = x.from(line + place.left as usize);
                if let (Some(to), Some(from)) = (to.first_chunk_mut(), from.first_chunk::<CHUNK>())
                {
                    *to = *from;
                    continue;
                }
            }
            for (s, to) in to[..run].chunks_exact_mut(self.depth).enumerate() {
                match x.pixel(place.image, y, place.left + (s * dilation) as isize) {
                    Some(row) => to.copy_from_slice(row),
                    None => to.fill(T::zeroed()),
                }
            }
        }
    }
}

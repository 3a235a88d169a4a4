//! Views of NHWC activations: a channel slice of `[batch, h, w, channels]`.

use crate::ops::Size;

/// What an op reads; `T` is what the activations are stored as.
#[derive(Clone, Copy)]
pub struct Input<'a, T = f32> {
    pub data: &'a [T],
    pub batch: usize,
    pub size: Size,
    /// Channels of the buffer.
    pub channels: usize,
    /// First channel and channel count of the slice.
    pub first: usize,
    pub count: usize,
    /// The first row that `data` holds, of a single image: where a network runs in bands of rows not all are there.
    pub top: usize,
}

impl<'a, T> Input<'a, T> {
    /// The slice's channels at pixel `index`, counted over the batch.
    #[inline(always)]
    pub fn row(&self, index: usize) -> &'a [T] {
        &self.data[(index - self.top * self.size.w) * self.channels + self.first..][..self.count]
    }

    /// The data from pixel `index` on, counted over the batch.
    #[inline(always)]
    pub fn from(&self, index: usize) -> &'a [T] {
        &self.data[(index - self.top * self.size.w) * self.channels..]
    }

    /// The whole of a contiguous tensor.
    pub fn contiguous(data: &'a [T], batch: usize, size: Size, channels: usize) -> Self {
        Input { data, batch, size, channels, first: 0, count: channels, top: 0 }
    }

    /// The slice's channels at a position, None outside the image.
    #[inline(always)]
    pub fn pixel(&self, image: usize, y: isize, x: isize) -> Option<&'a [T]> {
        let inside = y >= 0 && x >= 0 && (y as usize) < self.size.h && (x as usize) < self.size.w;
        inside.then(|| self.row((image * self.size.h + y as usize) * self.size.w + x as usize))
    }
}

/// The shape of what an op writes: only channels `first..first + count` of each pixel.
#[derive(Clone, Copy)]
pub struct Shape {
    pub batch: usize,
    pub size: Size,
    /// Channels of the buffer.
    pub channels: usize,
    pub first: usize,
    pub count: usize,
    /// The first row that is written, of a single image; the buffer says how many.
    pub top: usize,
}

impl Shape {
    /// Pixels before the first that is written.
    pub fn before(&self) -> usize {
        self.top * self.size.w
    }
}

/// What an op writes.
pub struct Output<'a, T = f32> {
    pub buffer: &'a mut [T],
    pub shape: Shape,
}

impl<'a, T> Output<'a, T> {
    /// The whole of a contiguous tensor.
    pub fn contiguous(buffer: &'a mut [T], batch: usize, size: Size, channels: usize) -> Self {
        Output { buffer, shape: Shape { batch, size, channels, first: 0, count: channels, top: 0 } }
    }
}

/// What a convolution with packed weights `W` works on: `y = relu(conv(x) + bias + residual)`.
pub struct Operands<'a, W, T = f32> {
    pub weights: &'a W,
    pub x: Input<'a, T>,
    pub residual: Option<Input<'a, T>>,
    pub relu: bool,
    pub y: Shape,
}

//! One file per op: its kernels on every device; of an op without weights the CPU path too.

mod clip;
mod conv2d;
mod conv2d_hopper;
mod density;
mod depthwise;
mod dropout;
mod gather;
mod grid;
mod head;
mod mixture;
mod moments;
mod pool;
mod preprocess;
mod resize;
mod stem;

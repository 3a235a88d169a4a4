//! Devices, random tensors, and the comparison.

#[cfg(feature = "cuda")]
use std::sync::{Arc, OnceLock};

#[cfg(feature = "cuda")]
use ddu::device::cuda::Cuda;
use ddu::device::simt::{Schedule, Simt};
use ddu::device::{Buffer, Device, Element, Launch, Tensor};
use ddu::ops::Size;
use half::f16;

#[cfg(feature = "cuda")]
use crate::{guarded::Guarded, standin};

const SCHEDULES: [Schedule; 3] = [Schedule::Forward, Schedule::Reverse, Schedule::Random(7)];

/// Whether the simt device plays tensor cores' sums (`kernels/simt/sums.h`), which no schedule changes.
pub fn cut_off() -> bool {
    std::env::var_os("DDU_SIMT_SUMS").is_some()
}

/// The devices that every case runs on: the same kernels in three orders of blocks and threads, and cuda:0
/// where there is one. `DDU_TEST_DEVICE=simt|cuda` takes only these, and insists on the GPU.
///
/// Under a sanitizer one order: what it looks for, an access outside or a missing edge between two accesses, is
/// the same in each (`tests/simt` plants faults and holds that).
pub fn devices() -> Vec<(String, Box<dyn Device>)> {
    let sanitizer = std::env::var("DDU_SIMT_SANITIZE").is_ok_and(|name| !name.is_empty());
    with(if sanitizer || cut_off() { &SCHEDULES[..1] } else { &SCHEDULES })
}

/// For a case that takes long: one schedule, and cuda:0 where there is one.
pub fn on(schedule: Schedule) -> Vec<(String, Box<dyn Device>)> {
    with(&[schedule])
}

fn with(schedules: &[Schedule]) -> Vec<(String, Box<dyn Device>)> {
    let wanted = |device| std::env::var("DDU_TEST_DEVICE").map_or(true, |name| name == device);
    let mut devices = Vec::new();
    if wanted("simt") {
        devices.extend(schedules.iter().map(|schedule| simt(*schedule)));
    }
    if wanted("cuda") {
        devices.extend(cuda());
    }
    devices
}

/// For a case that compares many things on one device: cuda:0 where there is one.
pub fn device() -> Box<dyn Device> {
    devices().pop().expect("there is simt").1
}

/// Whether a device is the first of those whose sums are the same bits: those of simt, in any order of blocks
/// and threads, or a GPU's own.
pub fn first_of_its_kind(device: &str) -> bool {
    device == simt(SCHEDULES[0]).0 || device.starts_with("cuda")
}

fn simt(schedule: Schedule) -> (String, Box<dyn Device>) {
    (format!("simt {schedule:?}"), Box::new(Simt::new(schedule, 2)))
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Option<(String, Box<dyn Device>)> {
    None
}

/// Opened once; says once why there is none.
#[cfg(feature = "cuda")]
fn cuda() -> Option<(String, Box<dyn Device>)> {
    static CUDA: OnceLock<Option<Arc<Cuda>>> = OnceLock::new();
    let cuda = CUDA.get_or_init(|| {
        let opened = if standin::is_here() { standin::open(0) } else { Cuda::new(0) };
        match opened {
            Ok(cuda) => Some(Arc::new(cuda)),
            Err(error) if std::env::var_os("DDU_TEST_DEVICE").is_some() => panic!("{error}"),
            Err(error) => {
                standin::skipped(&format!("on cuda: {error}"));
                None
            }
        }
    });
    let guarded = Guarded::new(cuda.clone()?);
    Some((guarded.name(), Box::new(guarded)))
}

/// A small deterministic generator (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In -1..1.
    pub fn value(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// fp16 numbers in -1..1.
    pub fn halves(&mut self, n: usize) -> Vec<f16> {
        (0..n).map(|_| f16::from_f32(self.value())).collect()
    }

    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }
}

/// What an output holds before a kernel runs: a NaN that no kernel computes.
pub const POISON: u8 = 0xff;

pub fn upload<T: bytemuck::Pod>(device: &dyn Device, values: &[T]) -> Buffer {
    let bytes: &[u8] = bytemuck::cast_slice(values);
    let buffer = device.alloc(bytes.len()).unwrap();
    device.write(buffer.all(), bytes).unwrap();
    buffer
}

/// A poisoned buffer of `bytes`, with as many again behind it that must stay as they are.
pub fn output(device: &dyn Device, bytes: usize) -> Buffer {
    upload(device, &vec![POISON; bytes + GUARD])
}

pub const GUARD: usize = 256;

/// The output's bytes; fails if the guard was touched.
pub fn download<T: bytemuck::Pod>(device: &dyn Device, buffer: &Buffer, count: usize) -> Vec<T> {
    let bytes = count * size_of::<T>();
    let mut all = vec![0u8; bytes + GUARD];
    device.read(buffer.all(), &mut all).unwrap();
    assert!(all[bytes..].iter().all(|&b| b == POISON), "the kernel wrote past its output");
    bytemuck::pod_collect_to_vec(&all[..bytes])
}

pub fn run(device: &dyn Device, launches: &[Launch]) {
    for launch in launches {
        device.launch(launch).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// A whole or sliced tensor: channels `first..first + channels` of `stride`.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub batch: usize,
    pub size: Size,
    pub channels: usize,
    pub first: usize,
    pub stride: usize,
}

impl Layout {
    pub fn contiguous(batch: usize, size: Size, channels: usize) -> Self {
        Layout { batch, size, channels, first: 0, stride: channels }
    }

    /// With `before` and `after` channels of others on either side.
    pub fn slice(self, before: usize, after: usize) -> Self {
        Layout { first: before, stride: before + self.channels + after, ..self }
    }

    pub fn pixels(&self) -> usize {
        self.batch * self.size.pixels()
    }

    pub fn elements(&self) -> usize {
        self.pixels() * self.stride
    }

    pub fn tensor<'a>(&self, buffer: &'a Buffer, element: Element) -> Tensor<'a> {
        let Layout { batch, size, channels, first, stride } = *self;
        Tensor::new(buffer.all(), element, batch, size, stride, first, channels).unwrap()
    }

    /// Value `[n, y, x, c]` of data with this layout; 0 outside the image.
    pub fn at<T: Into<f64> + Copy>(
        &self,
        data: &[T],
        n: usize,
        y: isize,
        x: isize,
        c: usize,
    ) -> f64 {
        let Size { h, w } = self.size;
        if y < 0 || x < 0 || y as usize >= h || x as usize >= w {
            return 0.0;
        }
        data[((n * h + y as usize) * w + x as usize) * self.stride + self.first + c].into()
    }
}

/// One value of the reference.
#[derive(Clone, Copy)]
pub struct Expected {
    /// f64.
    pub value: f64,
    /// Bound of |error|.
    pub bound: f64,
    /// What a plain f32 loop gives, rounded as the output is.
    pub plain: f64,
}

impl Expected {
    /// A sum of `terms` terms whose magnitudes add up to `magnitude`, rounded to fp16 or f32.
    pub fn sum(value: f64, plain: f64, terms: usize, magnitude: f64, element: Element) -> Self {
        let (rounding, least) = match element {
            Element::F16 => (2f64.powi(-11), 2f64.powi(-25)),
            Element::F32 => (2f64.powi(-24), 0.0),
        };
        let plain = match element {
            Element::F16 => f16::from_f64(plain).to_f64(),
            Element::F32 => f64::from(plain as f32),
        };
        let accumulation = terms as f64 * 2f64.powi(-23) * magnitude;
        let bound = accumulation + rounding * (value.abs() + accumulation) + least;
        Expected { value, bound, plain }
    }
}

/// Holds `got` (of `layout`, everything outside its channels poison) against the reference: no value
/// missing or not finite, each inside its bound, and the normalised rms error at most twice the plain
/// loop's, plus 1e-6. The worst shares of the two.
pub fn check<T>(
    what: &str,
    layout: &Layout,
    got: &[T],
    expected: impl Fn(usize, usize, usize, usize) -> Expected,
) -> [f64; 2]
where
    T: Into<f64> + Copy + bytemuck::Pod,
{
    let poisoned = |v: &T| bytemuck::bytes_of(v).iter().all(|&b| b == POISON);
    let (mut error, mut plain, mut total, mut worst) = (0.0, 0.0, 0.0, 0f64);
    for (pixel, values) in got.chunks_exact(layout.stride).enumerate() {
        let (n, rest) = (pixel / layout.size.pixels(), pixel % layout.size.pixels());
        let (y, x) = (rest / layout.size.w, rest % layout.size.w);
        for (i, value) in values.iter().enumerate() {
            if i < layout.first || i >= layout.first + layout.channels {
                assert!(
                    poisoned(value),
                    "{what}: wrote channel {i} of pixel {pixel}, outside its slice"
                );
                continue;
            }
            let c = i - layout.first;
            let at = format!("{what}: image {n}, row {y}, column {x}, channel {c}");
            assert!(!poisoned(value), "{at}: never written");
            let value: f64 = (*value).into();
            assert!(value.is_finite(), "{at}: {value}");
            let want = expected(n, y, x, c);
            let off = (value - want.value).abs();
            assert!(
                off <= want.bound,
                "{at}: {value}, expected {} +- {:e}",
                want.value,
                want.bound
            );
            worst = worst.max(off / want.bound);
            error += off * off;
            plain += (want.plain - want.value).powi(2);
            total += want.value * want.value;
        }
    }
    let norm = |sum: f64| (sum / f64::max(total, f64::MIN_POSITIVE)).sqrt();
    let (error, limit) = (norm(error), 2.0 * norm(plain) + 1e-6);
    assert!(error <= limit, "{what}: normalised rms {error:e}, limit {limit:e}");
    [worst, error / limit]
}

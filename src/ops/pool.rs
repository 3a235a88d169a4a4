//! Max pooling: `y[p, q, c] = max_{r, s} x[p * stride + r - padding, q * stride + s - padding, c]`
//! over the positions inside the input (padding never wins).

use super::Size;
use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub struct MaxPool {
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
}

impl MaxPool {
    /// `2 * padding <= kernel`, as in PyTorch: otherwise a window could lie in the padding alone.
    pub fn validate(&self) -> Result<()> {
        if self.kernel == 0 || self.stride == 0 || 2 * self.padding > self.kernel {
            let expected = "positive kernel and stride, padding of at most half the kernel";
            return Err(Error::invalid("max pooling", expected, format!("{self:?}")));
        }
        Ok(())
    }

    pub fn output_size(&self, input: Size) -> Result<Size> {
        let axis = |n: usize| match (n + 2 * self.padding).checked_sub(self.kernel) {
            Some(room) if n > 0 => Ok(room / self.stride + 1),
            _ => {
                let min = self.kernel - 2 * self.padding;
                let what = format!("max pooling of a {input} input");
                Err(Error::invalid(what, format!("{min} x {min} pixels or more"), n))
            }
        };
        Ok(Size::new(axis(input.h)?, axis(input.w)?))
    }
}

//! Part of a run.

use crate::device::Launch;

/// The launches of a node, of the preprocessing, of the head or of the density.
pub struct Step<'a> {
    /// The node's name.
    pub name: &'a str,
    pub launches: Vec<Launch<'a>>,
}

//! The demo: scenes it draws itself, a small network that ships with the program, and what the two
//! uncertainties say about them.

pub mod scenes;

//! Where the parts of a picture with panels stand.

use super::canvas::Canvas;
use super::overlay::{INK, PAPER};
use super::text;
use crate::data::Image;
use crate::ops::Size;

/// What stands to the right of the panels.
pub struct Side {
    pub width: f32,
    pub height: usize,
}

/// Where things go: margin, titles above, panels side by side, then a legend or bar.
pub struct Layout {
    /// Pixels an em of the text.
    pub em: f32,
    pub margin: usize,
    panel: Size,
}

impl Layout {
    pub fn new(panel: Size) -> Self {
        // Text grows slower than the picture: 14 px at 360, 24 px at 1080.
        let short = panel.h.min(panel.w) as f32;
        let em = (14.0 * (short / 360.0).sqrt()).clamp(13.0, 48.0).round();
        Layout { em, margin: (1.2 * em) as usize, panel }
    }

    /// First row of the panels.
    pub fn top(&self) -> usize {
        self.margin + (1.7 * self.em) as usize
    }

    /// Between two panels.
    pub fn space(&self) -> usize {
        self.em as usize
    }

    /// Between the last panel and what explains it.
    pub fn gap(&self) -> f32 {
        self.em.round()
    }

    /// Of a tick.
    pub fn stroke(&self) -> usize {
        (self.em / 14.0).round().max(1.0) as usize
    }

    /// A page with its panels and a title over each; `side` is kept free to their right.
    pub fn canvas(&self, panels: &[&Image], side: Side, titles: &[&str]) -> Canvas {
        let Size { h, w } = self.panel;
        let body = panels.len() * w + (panels.len() - 1) * self.space();
        let width = 2 * self.margin + body + (self.gap() + side.width).ceil() as usize;
        let height = self.top() + h.max(side.height) + self.margin;
        let mut canvas = Canvas::new(Size::new(height, width), PAPER);
        for (i, panel) in panels.iter().enumerate() {
            let left = self.margin + i * (w + self.space());
            canvas.picture(self.top(), left, panel);
            let end = if i + 1 < titles.len() { left + w } else { width - self.margin };
            let title = text::shortened(titles[i], self.em, (end - left) as f32);
            let baseline = self.top() as f32 - 0.6 * self.em;
            canvas.text(left as f32, baseline, &title, self.em, INK);
        }
        canvas
    }
}

//! The page in a headless Chromium, opened from its file. A script at its end (`self_test.js`) points, types
//! and drags, compares what the page then shows with numbers that were computed here, and leaves its verdict in
//! the document.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use super::{DENSITY, ENTROPY, SIZE, page, panel};
use ddu::report::page::Map;

/// `DDU_CHROMIUM`, else the first that is installed.
pub fn chromium() -> Option<PathBuf> {
    let names = ["chromium-headless-shell", "chrome-headless-shell", "chromium", "google-chrome"];
    let named = std::env::var_os("DDU_CHROMIUM").map(PathBuf::from);
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = named.or_else(|| {
        let folders: Vec<PathBuf> = std::env::split_paths(&folders).collect();
        let all = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
        all.into_iter().find(|path| path.is_file())
    });
    if found.is_none() {
        let test = std::thread::current().name().unwrap_or("test").to_owned();
        let _ = writeln!(std::io::stderr(), "{test} SKIPPED: no {}", names.join(", "));
    }
    found
}

/// How many pixels of the first panel are certain, ambiguous and unfamiliar.
pub fn counts(entropy_limit: f32, density_limit: f32) -> [usize; 3] {
    let panel = panel("", 0);
    let [_, Map::Scalar(entropy), Map::Scalar(density)] = &panel.layers[..] else { panic!() };
    let mut counts = [0; 3];
    for (e, d) in entropy.iter().zip(density) {
        let state =
            if *d < density_limit { 2 } else { usize::from(*e > entropy_limit || e.is_nan()) };
        counts[state] += 1;
    }
    counts
}

/// As the page says it.
pub fn share(count: usize, of: usize) -> String {
    let share = count as f64 / of as f64;
    if share > 0.0 && share < 0.001 { "< 0.1 %".into() } else { format!("{:.1} %", 100.0 * share) }
}

fn verdict(chromium: &Path, width: usize, dark: bool) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("page.html");
    page().write(&file).unwrap();
    let expected = json!({
        "width": width,
        "dark": dark,
        "size": [SIZE.w, SIZE.h],
        "counts": counts(ENTROPY, DENSITY),
        "moved": counts(0.5, DENSITY),
        // Row 30, column 20.
        "entropy": format!("{:.3} nats", 2.0 * 30.0 / 47.0),
        "density": "\u{2212}60.00 nats",
    });
    let script = include_str!("self_test.js").replace("EXPECTED", &expected.to_string());
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replace("</body>", &format!("<script>{script}</script></body>"));
    std::fs::write(&file, text).unwrap();
    let output = Command::new(chromium)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            // Of the page's own clock, which leaps when nothing is left to do.
            "--virtual-time-budget=600000",
            "--dump-dom",
        ])
        .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
        .arg(format!("--window-size={width},900"))
        .arg(format!("--blink-settings=preferredColorScheme={}", if dark { 0 } else { 1 }))
        .arg(format!("file://{}", file.display()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&output.stdout);
    let verdict = dom
        .split_once("<output id=\"verdict\">")
        .and_then(|(_, rest)| rest.split_once("</output>"));
    let errors = String::from_utf8_lossy(&output.stderr);
    verdict.map_or_else(|| format!("no verdict: {errors}"), |(verdict, _)| verdict.to_owned())
}

#[test]
fn pixels_are_read_and_sliders_move_the_mask() {
    let Some(chromium) = chromium() else { return };
    for (width, dark) in [(1280, false), (390, true), (1280, true), (390, false)] {
        assert_eq!(verdict(&chromium, width, dark), "all is well", "{width} px, dark: {dark}");
    }
}

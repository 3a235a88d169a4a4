//! The page under a real mouse and keyboard: the browser is told over the DevTools protocol where the mouse goes and which key
//! goes down, and makes the events itself.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use super::browser::{chromium, counts, share};
use super::{DENSITY, SIZE, page};

/// A tab, and the pipe that speaks to its browser.
struct Tab {
    browser: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    session: Value,
    sent: u64,
}

impl Tab {
    fn open(chromium: &Path, folder: &Path, file: &Path, width: usize, dark: bool) -> Tab {
        let mut browser = Command::new("sh")
            // The protocol is spoken over the descriptors 3 and 4.
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null"])
            .arg(chromium)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"])
            .args(["--disable-background-networking", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", folder.join("profile").display()))
            .arg(format!("--window-size={width},900"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (to, from) = (browser.stdin.take().unwrap(), browser.stdout.take().unwrap());
        let (from, session) = (BufReader::new(from), Value::Null);
        let mut tab = Tab { browser, to, from, session, sent: 0 };
        let target = tab.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        tab.session = tab.call("Target.attachToTarget", attach)["sessionId"].clone();
        let scheme = if dark { "dark" } else { "light" };
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        tab.call("Emulation.setEmulatedMedia", json!({ "features": [feature] }));
        tab.call("Page.navigate", json!({ "url": format!("file://{}", file.display()) }));
        while tab.says("document.querySelector('.viewer')?.dataset.ready ?? ''") != "0" {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        tab
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.sent += 1;
        let mut message = json!({ "id": self.sent, "method": method, "params": params });
        if !self.session.is_null() {
            message["sessionId"] = self.session.clone();
        }
        write!(self.to, "{message}\0").unwrap();
        loop {
            let mut answer = Vec::new();
            self.from.read_until(0, &mut answer).unwrap();
            assert_eq!(answer.pop(), Some(0), "{method}: the browser is gone");
            let answer: Value = serde_json::from_slice(&answer).unwrap();
            if answer["id"] == self.sent {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    /// The value of an expression in the page.
    fn value(&mut self, expression: &str) -> Value {
        let asked = json!({ "expression": expression, "returnByValue": true });
        let answer = self.call("Runtime.evaluate", asked);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    fn says(&mut self, expression: &str) -> String {
        self.value(expression).as_str().unwrap().to_owned()
    }

    /// Where a share of an element's width and height lies in the window, once it is scrolled there.
    fn place(&mut self, selector: &str, x: f64, y: f64) -> [f64; 2] {
        let found = self.value(&format!(
            "(() => {{ const e = document.querySelector('{selector}'); e.scrollIntoView({{ block: 'center', behavior: \
             'instant' }}); const r = e.getBoundingClientRect(); return [r.left, r.top, r.width, r.height]; }})()"
        ));
        let [left, top, w, h] = [0, 1, 2, 3].map(|i: usize| found[i].as_f64().unwrap());
        [left + x * w, top + y * h]
    }

    fn mouse(&mut self, kind: &str, [x, y]: [f64; 2]) {
        let (button, held) = match kind {
            "mouseMoved" => ("none", 0),
            _ => ("left", 1),
        };
        let event = json!({ "type": kind, "x": x, "y": y, "button": button, "buttons": held, "clickCount": 1 });
        self.call("Input.dispatchMouseEvent", event);
    }

    /// Moves the mouse over a pixel of a canvas.
    fn point(&mut self, canvas: &str, x: usize, y: usize) -> [f64; 2] {
        let share = |i: usize, n: usize| (i as f64 + 0.5) / n as f64;
        let at = self.place(canvas, share(x, SIZE.w), share(y, SIZE.h));
        self.mouse("mouseMoved", at);
        at
    }

    fn key(&mut self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            self.call("Input.dispatchKeyEvent", json!({ "type": kind, "key": key }));
        }
    }
}

impl Drop for Tab {
    fn drop(&mut self) {
        let _ = self.browser.kill();
        let _ = self.browser.wait();
    }
}

const PLACE: &str = "document.querySelector('.place').textContent";

#[test]
fn a_mouse_and_a_keyboard_do_what_a_reader_wants() {
    let Some(chromium) = chromium() else { return };
    for (width, dark) in [(1280, false), (390, true)] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("page.html");
        page().write(&file).unwrap();
        let mut tab = Tab::open(&chromium, folder.path(), &file, width, dark);
        let what = format!("{width} px, dark: {dark}");
        assert_eq!(tab.value("matchMedia('(prefers-color-scheme: dark)').matches"), dark);

        tab.point("canvas.map", 20, 30);
        assert_eq!(tab.says(PLACE), "row 30, column 20", "{what}");
        let entropy = tab.says("document.querySelector('[data-layer=\"1\"] span').textContent");
        assert_eq!(entropy, format!("{:.3} nats", 2.0 * 30.0 / 47.0), "{what}");

        // A click takes the focus, and the arrows go on from there.
        let at = tab.point("canvas.mask", 40, 12);
        tab.mouse("mousePressed", at);
        tab.mouse("mouseReleased", at);
        tab.key("ArrowRight");
        tab.key("ArrowDown");
        assert_eq!(tab.says(PLACE), "row 13, column 41", "{what}");

        // The slider of the entropy, taken where it stands and drawn to the left.
        let slider = "input[type=range]";
        let stands = tab.value(&format!(
            "(() => {{ const s = document.querySelector('{slider}'); return (s.value - s.min) / (s.max - s.min); }})()"
        ));
        let stands = stands.as_f64().unwrap();
        let from = tab.place(slider, stands, 0.5);
        let to = tab.place(slider, stands / 2.0, 0.5);
        tab.mouse("mouseMoved", from);
        tab.mouse("mousePressed", from);
        let drag =
            json!({ "type": "mouseMoved", "x": to[0], "y": to[1], "button": "left", "buttons": 1 });
        tab.call("Input.dispatchMouseEvent", drag);
        tab.mouse("mouseReleased", to);
        let limit = tab.value(&format!("Number(document.querySelector('{slider}').value)"));
        let limit = limit.as_f64().unwrap() as f32;
        assert!((0.4..0.9).contains(&limit), "{what}: drawn from 1.25 to {limit}");
        let shares =
            tab.value("[...document.querySelectorAll('.states output')].map(o => o.value)");
        let expected = counts(limit, DENSITY).map(|count| share(count, SIZE.pixels()));
        assert_eq!(shares, json!(expected), "{what}, at {limit}");
    }
}

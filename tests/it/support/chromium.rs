//! Chromium, controlled over its DevTools protocol.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::eventually;

/// A browser with one page. Ends when dropped.
pub struct Chromium {
    process: Child,
    runtime: tokio::runtime::Runtime,
    socket: WebSocketStream<TcpStream>,
    session: String,
    last: u64,
    complaints: Vec<String>,
    _profile: tempfile::TempDir,
}

impl Chromium {
    /// Starts the browser.
    pub fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        let process = Command::new("chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let file = profile.path().join("DevToolsActivePort");
        let mut place = String::new();
        eventually("Chromium listens", || {
            place = std::fs::read_to_string(&file).unwrap_or_default();
            place.lines().count() == 2
        });
        let (port, path) = place.trim().split_once('\n').unwrap();
        let runtime = super::http3::runtime();
        let socket = runtime.block_on(async {
            let stream = TcpStream::connect(format!("127.0.0.1:{port}")).await.unwrap();
            let url = format!("ws://127.0.0.1:{port}{path}");
            tokio_tungstenite::client_async(url, stream).await.unwrap().0
        });
        let (session, complaints) = (String::new(), Vec::new());
        let mut all = Self { process, runtime, socket, session, last: 0, complaints, _profile: profile };
        let target = all.call("Target.createTarget", json!({"url": "about:blank"}))["targetId"].clone();
        let attached = all.call("Target.attachToTarget", json!({"targetId": target, "flatten": true}));
        all.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log"] {
            all.call(&format!("{domain}.enable"), json!({}));
        }
        all
    }

    /// Calls a method of the protocol.
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.try_call(method, parameters).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// Calls a method that may fail, such as one that meets a page on its way to another.
    fn try_call(&mut self, method: &str, parameters: Value) -> Result<Value, Value> {
        self.last += 1;
        let mut message = json!({"id": self.last, "method": method, "params": parameters});
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        self.runtime.block_on(self.socket.send(Message::text(message.to_string()))).unwrap();
        loop {
            let message = self.runtime.block_on(self.socket.next()).unwrap().unwrap();
            let Ok(text) = message.to_text() else { continue };
            let Ok(mut message) = serde_json::from_str::<Value>(text) else { continue };
            if message["id"] == self.last {
                return match message["error"].is_null() {
                    true => Ok(message["result"].take()),
                    false => Err(message),
                };
            }
            self.hear(&message);
        }
    }

    fn hear(&mut self, event: &Value) {
        let parameters = &event["params"];
        let is_bad = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => parameters["type"] == "error",
            // Browsers log each 404 as an error; the page may ask the API for what does not exist.
            Some("Log.entryAdded") => {
                let entry = &parameters["entry"];
                let url = entry["url"].as_str().unwrap_or("");
                let is_unknown = entry["text"].as_str().is_some_and(|text| text.contains("404"));
                entry["level"] == "error" && !(is_unknown && url.contains("/api/"))
            }
            _ => false,
        };
        if is_bad {
            self.complaints.push(parameters.to_string());
        }
    }

    /// Returns errors of scripts, of the console and of the content security policy since the last call.
    pub fn complaints(&mut self) -> Vec<String> {
        // Events before this answer have been heard.
        self.evaluate("0");
        std::mem::take(&mut self.complaints)
    }

    /// Returns the value of an expression in the page.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut result = self.call("Runtime.evaluate", parameters);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].take()
    }

    /// Waits until an expression is true.
    pub fn until(&mut self, expression: &str) {
        eventually(expression, || self.evaluate(expression) == true);
    }

    /// Waits until an expression is true, while pages lead to other pages.
    pub fn arrives(&mut self, expression: &str) {
        let mut last = Value::Null;
        let begun = std::time::Instant::now();
        super::eventually(expression, || {
            let parameters = json!({"expression": expression, "returnByValue": true});
            let result = self.try_call("Runtime.evaluate", parameters);
            let is_there = result.is_ok_and(|result| result["result"]["value"] == true);
            if !is_there && begun.elapsed().as_secs() > 50 {
                let page = json!({"expression": "location.href + ' ' + document.body?.innerText", "returnByValue": true});
                last = self.try_call("Runtime.evaluate", page).unwrap_or_default()["result"]["value"].take();
                assert!(begun.elapsed().as_secs() < 55, "{expression}: {last}");
            }
            is_there
        });
    }

    /// Loads an address.
    pub fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({"url": "about:blank"}));
        self.call("Page.navigate", json!({"url": url}));
    }

    /// Presses a key that has this text, or no text.
    pub fn press(&mut self, key: &str, text: &str) {
        let code = if key == "Enter" {
            13
        } else if key == "Tab" {
            9
        } else {
            0
        };
        let down = json!({"type": "keyDown", "key": key, "text": text, "windowsVirtualKeyCode": code});
        self.call("Input.dispatchKeyEvent", down);
        let up = json!({"type": "keyUp", "key": key, "windowsVirtualKeyCode": code});
        self.call("Input.dispatchKeyEvent", up);
    }

    /// Sets the size of the page, and whether the user prefers dark colours.
    pub fn appear(&mut self, width: u32, height: u32, is_dark: bool) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", size);
        let scheme = if is_dark { "dark" } else { "light" };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", features);
    }

    /// Writes a picture of the page.
    pub fn picture(&mut self, file: &Path) {
        let shown = self.call("Page.captureScreenshot", json!({"format": "png"}));
        std::fs::write(file, STANDARD.decode(shown["data"].as_str().unwrap()).unwrap()).unwrap();
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

//! This file is a mail server that keeps what it is sent, and a reader that follows the link in it.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Takes every message.
pub struct Mailbox {
    pub port: u16,
    messages: mpsc::UnboundedReceiver<String>,
}

impl Mailbox {
    pub async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let (keep, messages) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, keep.clone()));
            }
        });
        Self { port, messages }
    }

    /// Waits for the next message and does with its link what a person does: opens it, and confirms.
    pub async fn follow_link(&mut self) {
        let message = self.messages.recv().await.expect("the server runs");
        // RFC 2045 §6.7: a line that goes on ends in `=`, and `=3D` is `=`.
        let text = message.replace("=\r\n", "").replace("=3D", "=");
        let link = link_in(&text).expect("a link in the message");
        // By hand: these cookies are marked as secure, and a client would keep them from http.
        let page = reqwest::get(&link).await.expect("the page");
        let cookies: Vec<_> = page
            .headers()
            .get_all("set-cookie")
            .iter()
            .filter_map(|cookie| cookie.to_str().ok()?.split(';').next())
            .map(str::to_owned)
            .collect();
        let page = page.text().await.expect("a text").replace("&amp;", "&");
        let proceed = link_in(&page).expect("a link to proceed");
        let request = reqwest::Client::new().get(proceed).header("cookie", cookies.join("; "));
        assert_eq!(request.send().await.expect("the page").status(), 200);
    }
}

fn link_in(text: &str) -> Option<String> {
    let is_inside = |c: char| !c.is_whitespace() && !"\"<>".contains(c);
    text.match_indices("http://")
        .map(|(at, _)| text[at..].chars().take_while(|c| is_inside(*c)).collect::<String>())
        .find(|link| link.contains("/action-token?"))
}

/// RFC 5321, as far as a server goes that says yes to everything.
async fn converse(stream: TcpStream, keep: mpsc::UnboundedSender<String>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 ready\r\n").await.ok()?;
    let mut message: Option<String> = None;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let answer: &[u8] = match &mut message {
            Some(text) if line == ".\r\n" => {
                keep.send(std::mem::take(text)).ok()?;
                message = None;
                b"250 kept\r\n"
            }
            Some(text) => {
                text.push_str(&line);
                continue;
            }
            None if line.to_uppercase().starts_with("DATA") => {
                message = Some(String::new());
                b"354 go on\r\n"
            }
            None if line.to_uppercase().starts_with("QUIT") => b"221 bye\r\n",
            None => b"250 fine\r\n",
        };
        stream.write_all(answer).await.ok()?;
    }
}

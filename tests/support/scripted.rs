//! This file is an HTTP server that answers as a test says, however wrong that is.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

/// What came.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    /// With the query.
    pub path: String,
    /// Head and body as they came.
    pub text: String,
}

impl Asked {
    pub fn is_for_token(&self) -> bool {
        self.path.ends_with("/token")
    }
}

/// What is done.
#[derive(Debug, Clone)]
pub enum Done {
    /// These bytes are written, and the connection is closed.
    Say(Vec<u8>),
    /// These bytes are written, and then `x` for as long as somebody reads.
    SayForEver(Vec<u8>),
    /// These bytes are written, and nothing more, and the connection stays.
    Hang(Vec<u8>),
    /// The connection is closed.
    Close,
}

/// A server, gone when dropped.
pub struct Scripted {
    pub url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    written: Arc<AtomicU64>,
    task: AbortHandle,
}

impl Scripted {
    pub async fn start(script: impl Fn(&Asked) -> Done + Send + Sync + 'static) -> Self {
        Self::start_with(None, script).await
    }

    /// The same behind TLS.
    pub async fn start_tls(tls: TlsAcceptor, script: impl Fn(&Asked) -> Done + Send + Sync + 'static) -> Self {
        Self::start_with(Some(tls), script).await
    }

    async fn start_with(tls: Option<TlsAcceptor>, script: impl Fn(&Asked) -> Done + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().expect("it is bound"));
        let (asked, written) = (Arc::<Mutex<Vec<Asked>>>::default(), Arc::<AtomicU64>::default());
        let script: Script = Arc::new(script);
        let log = Log { asked: asked.clone(), written: written.clone() };
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, log, tls) = (script.clone(), log.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => log.converse(stream, script).await,
                        Some(tls) => {
                            let Ok(stream) = tls.accept(stream).await else { return };
                            log.converse(stream, script).await;
                        }
                    }
                });
            }
        });
        Self { url, asked, written, task: task.abort_handle() }
    }

    /// Everything that was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("nobody panicked with it").clone()
    }

    /// How often something was asked that `is` says.
    pub fn count(&self, is: impl Fn(&Asked) -> bool) -> usize {
        self.asked().iter().filter(|asked| is(asked)).count()
    }

    /// Bytes of answers that somebody took.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Script = Arc<dyn Fn(&Asked) -> Done + Send + Sync>;

#[derive(Clone)]
struct Log {
    asked: Arc<Mutex<Vec<Asked>>>,
    written: Arc<AtomicU64>,
}

impl Log {
    async fn converse(self, mut stream: impl AsyncRead + AsyncWrite + Unpin, script: Script) {
        let Some(asked) = request(&mut stream).await else { return };
        let done = script(&asked);
        self.asked.lock().expect("nobody panicked with it").push(asked);
        // Whoever has read enough goes away; then there is nothing more to do.
        let _ = self.act(&mut stream, done).await;
        let _ = stream.shutdown().await;
    }

    async fn act(&self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin), done: Done) -> std::io::Result<()> {
        match done {
            Done::Close => Ok(()),
            Done::Say(bytes) => self.write(stream, &bytes).await,
            Done::SayForEver(bytes) => {
                self.write(stream, &bytes).await?;
                loop {
                    self.write(stream, &[b'x'; 16_384]).await?;
                }
            }
            Done::Hang(bytes) => {
                self.write(stream, &bytes).await?;
                let mut rest = [0; 64];
                while stream.read(&mut rest).await? > 0 {}
                Ok(())
            }
        }
    }

    async fn write(&self, stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
        stream.write_all(bytes).await?;
        self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// One whole request; none when the connection ends before.
pub async fn request(stream: &mut (impl AsyncRead + Unpin)) -> Option<Asked> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        if let Some(asked) = complete(&bytes) {
            return Some(asked);
        }
        match stream.read(&mut buffer).await {
            Ok(read) if read > 0 => bytes.extend_from_slice(&buffer[..read]),
            _ => return None,
        }
    }
}

fn complete(bytes: &[u8]) -> Option<Asked> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    if body.len() < length.unwrap_or(0) {
        return None;
    }
    let mut words = head.split(' ');
    Some(Asked { method: words.next()?.to_owned(), path: words.next()?.to_owned(), text })
}

/// A whole answer with this status line and body.
pub fn answer(status: &str, headers: &str, body: &str) -> Done {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n", body.len());
    Done::Say(format!("{head}{body}").into_bytes())
}

pub fn json(status: &str, body: &str) -> Done {
    answer(status, "content-type: application/json\r\n", body)
}

/// A token as Keycloak grants it.
pub fn token() -> Done {
    json("200 OK", r#"{"access_token":"token-1f7c9e","expires_in":60,"token_type":"Bearer"}"#)
}

/// A server's TLS with a certificate of nobody's authority, and the certificate.
pub fn self_signed() -> (TlsAcceptor, String) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let chain = vec![CertificateDer::from(made.cert.der().to_vec())];
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), made.cert.pem())
}

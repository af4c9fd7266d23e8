//! A client of the control socket: one request, one answer, and a sentence when there is none.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::mgmt::api::ErrorBody;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes of an answer at most.
const ANSWER_MAX: usize = 256 * 1024 * 1024;

/// A client of one appliance.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    /// A client of the appliance that listens on `socket`.
    ///
    /// # Errors
    /// The system gives no event queue.
    pub fn new(socket: &Path) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| format!("can't set up input and output: {e}"))?;
        Ok(Self {
            socket: socket.to_owned(),
            runtime,
        })
    }

    /// The answer to a GET.
    ///
    /// # Errors
    /// A sentence: polder's own, or why it can't be reached.
    pub fn get(&self, path: &str) -> Result<Value, String> {
        self.request(&Method::GET, path, Bytes::new())
    }

    /// The answer to a request with a body.
    ///
    /// # Errors
    /// A sentence: polder's own, or why it can't be reached.
    pub fn request(&self, method: &Method, path: &str, body: Bytes) -> Result<Value, String> {
        self.ask_for(method, path, body).map_err(|why| match why {
            NoAnswer::Unreachable(why) => why,
            NoAnswer::Refused(e) => std::iter::once(e.error)
                .chain(e.problems)
                .collect::<Vec<_>>()
                .join("\n"),
        })
    }

    /// The answer to a request with a body; a refusal as polder gave it.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub fn ask_for(&self, method: &Method, path: &str, body: Bytes) -> Result<Value, NoAnswer> {
        let asked = async { tokio::time::timeout(TIMEOUT, self.ask(method, path, body)).await };
        let (status, body) = self
            .runtime
            .block_on(asked)
            .unwrap_or_else(|_| {
                Err(format!(
                    "polder did not answer on {} within {} s",
                    self.socket.display(),
                    TIMEOUT.as_secs()
                ))
            })
            .map_err(NoAnswer::Unreachable)?;
        answer(status, &body)
    }

    async fn ask(
        &self,
        method: &Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), String> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|e| unreachable_sentence(&self.socket, &e))?;
        let broken = |e: &dyn std::fmt::Display| {
            format!(
                "the connection to polder on {} broke: {e}",
                self.socket.display()
            )
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| broken(&e))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "polder")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|e| format!("can't ask for {path}: {e}"))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_MAX)
                .collect()
                .await
                .map_err(|e| broken(&e))?;
            Ok((status, body.to_bytes()))
        };
        // The connection has to be driven while the exchange waits; it ends when the exchange has its answer.
        tokio::pin!(connection);
        tokio::pin!(exchange);
        tokio::select! {
            biased;
            done = &mut exchange => done,
            ended = &mut connection => match ended {
                // The answer may have come together with the end.
                Ok(()) => exchange.await,
                Err(e) => Err(broken(&e)),
            },
        }
    }
}

/// Why a request did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// Polder refused it.
    Refused(ErrorBody),
    /// Polder can't be reached, or it is something else that answers; a sentence.
    Unreachable(String),
}

fn answer(status: StatusCode, body: &[u8]) -> Result<Value, NoAnswer> {
    let unreachable = NoAnswer::Unreachable;
    if status.is_success() {
        return serde_json::from_slice(body).map_err(|e| {
            unreachable(format!(
                "polder's answer is no JSON ({e}); is it polder that listens?"
            ))
        });
    }
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(e) => Err(NoAnswer::Refused(e)),
        Err(_) => Err(unreachable(format!("polder answered {status}"))),
    }
}

/// An answer as the type that the API documents.
///
/// # Errors
/// It is something else: another version answers.
pub fn typed<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|e| {
        format!(
            "polder's answer is not understood ({e}): is the running polder older than this one?"
        )
    })
}

/// `segment` as a part of a URL's path.
#[must_use]
pub fn encode(segment: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:".contains(&b);
    segment.bytes().fold(String::new(), |mut out, b| {
        if plain(b) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
        out
    })
}

fn is_socket(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.file_type().is_socket())
}

fn unreachable_sentence(socket: &Path, e: &io::Error) -> String {
    let path = socket.display();
    match e.kind() {
        io::ErrorKind::NotFound => format!(
            "polder can't be reached: there is no socket {path}. Is `polder run` running? If its configuration sets \
             `control.socket`, give that path with --socket."
        ),
        io::ErrorKind::ConnectionRefused if !is_socket(socket) => format!(
            "polder can't be reached: {path} is no socket; give the path that `control.socket` of its configuration \
             has with --socket."
        ),
        io::ErrorKind::ConnectionRefused => format!(
            "polder can't be reached: nobody listens on {path}. It has stopped without removing the socket; see why, \
             and start it again."
        ),
        io::ErrorKind::PermissionDenied => format!(
            "polder can't be reached: you may not use {path}. Run this as the user that polder runs as (`sudo polder …`)."
        ),
        _ => format!("polder can't be reached on {path}: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreachable_socket_is_a_sentence_with_the_path() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("none.sock");
        let error = Client::new(&path)
            .and_then(|c| c.get("/v1/version"))
            .expect_err("nobody there");
        assert!(error.contains("no socket"), "{error}");
        assert!(error.contains(&path.display().to_string()), "{error}");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("binds"));
        let error = Client::new(&path)
            .and_then(|c| c.get("/v1/version"))
            .expect_err("nobody listens");
        assert!(error.contains("nobody listens"), "{error}");
        let error = Client::new(dir.path())
            .and_then(|c| c.get("/v1/version"))
            .expect_err("a folder");
        assert!(error.contains("is no socket"), "{error}");
    }

    #[test]
    fn names_are_safe_in_a_path() {
        assert_eq!(encode("10.0.0.1:80"), "10.0.0.1:80");
        assert_eq!(encode("[::1]:80"), "%5B::1%5D:80");
        assert_eq!(encode("a/b c?"), "a%2Fb%20c%3F");
        assert_eq!(encode("é"), "%C3%A9");
    }
}

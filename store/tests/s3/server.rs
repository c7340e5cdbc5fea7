//! An HTTP server with answers made by hand: what no well-behaved service says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use parking_lot::Mutex;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What a client asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// What to say to it.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// These bytes, and then the connection is closed.
    Bytes(Vec<u8>),
    /// Nothing, until the client goes away.
    Silence,
}

impl Reply {
    /// A whole answer.
    pub(crate) fn new(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        Self::announcing(status, headers, body.as_ref().len(), body)
    }

    /// An answer that says how long its body is, and may be wrong.
    pub(crate) fn announcing(
        status: u16,
        headers: &[(&str, &str)],
        len: usize,
        body: impl AsRef<[u8]>,
    ) -> Self {
        let mut bytes = format!("HTTP/1.1 {status} Such\r\nconnection: close\r\n");
        for (name, value) in headers {
            bytes += &format!("{name}: {value}\r\n");
        }
        let mut bytes = format!("{bytes}content-length: {len}\r\n\r\n").into_bytes();
        bytes.extend_from_slice(body.as_ref());
        Reply::Bytes(bytes)
    }

    /// An error as S3 words it.
    pub(crate) fn error(status: u16, code: &str) -> Self {
        let body = format!("<Error><Code>{code}</Code><Message>so it is</Message></Error>");
        Self::new(status, &[], body)
    }
}

type Answers = dyn Fn(&Request) -> Reply + Send + Sync;

/// Ends when dropped.
pub(crate) struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Request>>>,
    is_ended: Arc<AtomicBool>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::run(answer, |connection, answer, asked| serve(connection, answer, asked))
    }

    /// One behind TLS.
    pub(crate) fn start_tls(
        config: ServerConfig,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let config = Arc::new(config);
        Self::run(answer, move |connection, answer, asked| {
            let session = ServerConnection::new(config.clone()).unwrap();
            serve(StreamOwned::new(session, connection), answer, asked);
        })
    }

    fn run(
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
        serve: impl Fn(TcpStream, &Answers, &Mutex<Vec<Request>>) + Send + Sync + 'static,
    ) -> Self {
        let serve = Arc::new(serve);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            asked: Arc::default(),
            is_ended: Arc::default(),
        };
        let (asked, is_ended) = (server.asked.clone(), server.is_ended.clone());
        let answer: Arc<Answers> = Arc::new(answer);
        thread::spawn(move || {
            for connection in listener.incoming() {
                if is_ended.load(Ordering::SeqCst) {
                    return;
                }
                let (answer, asked, serve) = (answer.clone(), asked.clone(), serve.clone());
                thread::spawn(move || serve(connection.unwrap(), &*answer, &asked));
            }
        });
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All requests so far.
    pub(crate) fn asked(&self) -> Vec<Request> {
        self.asked.lock().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_ended.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(connection: impl Read + Write, answer: &Answers, asked: &Mutex<Vec<Request>>) {
    let mut reader = BufReader::new(connection);
    let Some(request) = read_request(&mut reader) else { return };
    asked.lock().push(request.clone());
    // The client may be gone; that is its right.
    match answer(&request) {
        Reply::Bytes(bytes) => {
            let _ = reader.get_mut().write_all(&bytes);
            let _ = reader.get_mut().flush();
        }
        Reply::Silence => {
            let _ = reader.read_to_end(&mut Vec::new());
        }
    }
}

/// `None` if the client only connected.
fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let mut request =
        Request { method: words.next()?, target: words.next()?, ..Request::default() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let len = request.header("content-length").map_or(0, |len| len.parse().unwrap());
    request.body = vec![0; len];
    reader.read_exact(&mut request.body).ok()?;
    Some(request)
}

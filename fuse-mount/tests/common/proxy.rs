//! A network that fails on demand: an HTTP proxy on loopback between the daemon and an S3 server.
//!
//! ```text
//!   daemon ── requests ──> proxy ── all, some, half, late, or none of it ──> server
//! ```
//! It takes a request as a whole, lets the mode decide its fate, and counts what came. One thread
//! for each connection; HTTP/1.1 with `Content-Length` and chunked bodies, as S3 uses it.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use super::rng::Rng;

/// Largest head and body that are taken in, in bytes.
const HEAD_MAX: u64 = 64 << 10;
const BODY_MAX: u64 = 64 << 20;

/// What happens to requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    Pass,
    /// Nobody listens; connections are cut.
    Refuse,
    /// Requests are taken and not answered. When this ends they reach the server, late.
    Hang,
    /// This share of requests, in thousandths, gets this status instead of reaching the server.
    Answer {
        status: u16,
        per_mille: u64,
    },
    /// So many bytes a second, on each connection and in each direction.
    Slow {
        bytes_per_second: u64,
    },
    /// This share of bodies breaks off in the middle: of what is sent, or of what is answered.
    Halve {
        per_mille: u64,
    },
    /// The server does as it is told, but this share of its answers is lost.
    LoseReply {
        per_mille: u64,
    },
}

/// Requests by kind: `PUT`, `GET`, `HEAD`, `DELETE`, `LIST`, and `POST`, which deletes many.
pub type Counts = BTreeMap<String, u64>;

/// A running proxy; it ends when dropped.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    server: SocketAddr,
    mode: Mutex<Mode>,
    changed: Condvar,
    counts: Mutex<Counts>,
    rng: Mutex<Rng>,
    /// To be cut: connections from clients.
    open: Mutex<Vec<TcpStream>>,
    stop: AtomicBool,
}

impl Proxy {
    /// Starts one before the server at `endpoint`, as `http://127.0.0.1:9000`.
    pub fn before(endpoint: &str, seed: u64) -> Self {
        let server = endpoint.trim_start_matches("http://").trim_end_matches('/').parse();
        let (listener, address) = listen();
        let shared = Arc::new(Shared {
            server: server.expect("the proxy needs an http:// endpoint of address and port"),
            mode: Mutex::new(Mode::Pass),
            changed: Condvar::new(),
            counts: Mutex::default(),
            rng: Mutex::new(Rng::new(seed)),
            open: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let of_thread = shared.clone();
        let thread = std::thread::spawn(move || of_thread.accept(listener, address));
        Self { address, shared, thread: Some(thread) }
    }

    /// Where clients find it.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes the network's mood. What is on its way goes on as before, unless nobody is to
    /// listen any more.
    pub fn set(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap() = mode;
        self.shared.changed.notify_all();
        if mode == Mode::Refuse {
            self.shared.cut_all();
        }
    }

    /// What came so far, whatever became of it.
    pub fn counts(&self) -> Counts {
        self.shared.counts.lock().unwrap().clone()
    }

    /// How many requests came so far.
    pub fn requests(&self) -> u64 {
        self.counts().values().sum()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.changed.notify_all();
        self.shared.cut_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// On a port below those that the kernel gives to outgoing connections: it is still free after a
/// time in which nobody listened.
fn listen() -> (TcpListener, SocketAddr) {
    let mut rng = Rng::new(u64::from(std::process::id()) ^ Rng::seed_of_the_day());
    super::wait_for("a free port", || {
        let address = SocketAddr::from(([127, 0, 0, 1], 20_000 + rng.below(12_000) as u16));
        TcpListener::bind(address).ok().map(|listener| (listener, address))
    })
}

impl Shared {
    fn mode(&self) -> Mode {
        *self.mode.lock().unwrap()
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn cut_all(&self) {
        for connection in self.open.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    fn chance(&self, per_mille: u64) -> bool {
        self.rng.lock().unwrap().below(1000) < per_mille
    }

    fn accept(self: Arc<Self>, listener: TcpListener, address: SocketAddr) {
        let mut listener = Some(listener);
        while !self.stopped() {
            if self.mode() == Mode::Refuse {
                listener = None;
                // It may have taken one in between.
                self.cut_all();
            } else if let Some(listener) = &listener {
                listener.set_nonblocking(true).unwrap();
                match listener.accept() {
                    Ok((client, _)) => self.clone().serve(client),
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
                continue;
            } else {
                listener = TcpListener::bind(address).ok();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn serve(self: Arc<Self>, client: TcpStream) {
        client.set_nonblocking(false).unwrap();
        client.set_nodelay(true).unwrap();
        self.open.lock().unwrap().push(client.try_clone().unwrap());
        std::thread::spawn(move || {
            let mut connection =
                Connection { shared: self, client: BufReader::new(client), server: None };
            // A connection that breaks is what this is about.
            while connection.exchange().is_ok_and(|goes_on| goes_on) {}
            let _ = connection.client.get_ref().shutdown(Shutdown::Both);
        });
    }

    /// The mode for a request that has just come; waits while requests hang.
    fn fate(&self) -> Mode {
        let hang = |mode: &mut Mode| *mode == Mode::Hang && !self.stopped();
        let mode: MutexGuard<'_, Mode> =
            self.changed.wait_while(self.mode.lock().unwrap(), hang).unwrap();
        *mode
    }

    fn count(&self, head: &Head) {
        let kind = match head.method() {
            "GET" if head.target().contains("list-type=") => "LIST",
            method => method,
        };
        *self.counts.lock().unwrap().entry(kind.to_owned()).or_default() += 1;
    }
}

/// One client, and the connection to the server on its behalf.
struct Connection {
    shared: Arc<Shared>,
    client: BufReader<TcpStream>,
    server: Option<BufReader<TcpStream>>,
}

impl Connection {
    /// One request and its answer. Says whether the connection goes on.
    fn exchange(&mut self) -> io::Result<bool> {
        let Some(head) = Head::read(&mut self.client)? else { return Ok(false) };
        if head.field("expect").is_some() {
            self.client.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let body = head.read_body(&mut self.client, false)?;
        self.shared.count(&head);
        let mode = self.shared.fate();
        match mode {
            Mode::Answer { status, per_mille } if self.shared.chance(per_mille) => {
                return self.answer_instead(&head, status);
            }
            Mode::Slow { bytes_per_second } => pause(body.len() as u64, bytes_per_second),
            Mode::Halve { per_mille } if body.len() > 1 && self.shared.chance(per_mille) => {
                let server = self.server()?;
                server.get_mut().write_all(&head.text)?;
                server.get_mut().write_all(&body[..body.len() / 2])?;
                self.server = None;
                return Ok(false);
            }
            _ => {}
        }
        let (answer, content) = self.ask(&head, &body)?;
        let client = self.client.get_mut();
        match mode {
            Mode::LoseReply { per_mille } if self.shared.chance(per_mille) => return Ok(false),
            Mode::Slow { bytes_per_second } => {
                client.write_all(&answer.text)?;
                for part in content.chunks((bytes_per_second / 20).max(1) as usize) {
                    pause(part.len() as u64, bytes_per_second);
                    client.write_all(part)?;
                }
            }
            Mode::Halve { per_mille } if content.len() > 1 && self.shared.chance(per_mille) => {
                client.write_all(&answer.text)?;
                client.write_all(&content[..content.len() / 2])?;
                return Ok(false);
            }
            _ => {
                client.write_all(&answer.text)?;
                client.write_all(&content)?;
            }
        }
        Ok(answer.keeps_alive() && head.keeps_alive())
    }

    fn answer_instead(&mut self, head: &Head, status: u16) -> io::Result<bool> {
        let code = if status == 503 { "SlowDown" } else { "InternalError" };
        let body = format!(
            "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>by the proxy</Message></Error>"
        );
        let body = if head.method() == "HEAD" { "" } else { &body };
        let length = body.len();
        let client = self.client.get_mut();
        write!(
            client,
            "HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        Ok(true)
    }

    fn server(&mut self) -> io::Result<&mut BufReader<TcpStream>> {
        if self.server.is_none() {
            let server = TcpStream::connect(self.shared.server)?;
            server.set_nodelay(true)?;
            self.server = Some(BufReader::new(server));
        }
        Ok(self.server.as_mut().unwrap())
    }

    /// Lets the server do it. A connection that it has closed meanwhile is replaced.
    fn ask(&mut self, head: &Head, body: &[u8]) -> io::Result<(Head, Vec<u8>)> {
        let kept = self.server.is_some();
        match self.ask_once(head, body) {
            Err(Unanswered { nothing_read: true, .. }) if kept => {
                self.server = None;
                self.ask_once(head, body).map_err(|unanswered| unanswered.error)
            }
            asked => asked.map_err(|unanswered| unanswered.error),
        }
    }

    fn ask_once(&mut self, head: &Head, body: &[u8]) -> Result<(Head, Vec<u8>), Unanswered> {
        let early = |error| Unanswered { error, nothing_read: true };
        let late = |error| Unanswered { error, nothing_read: false };
        let server = self.server().map_err(late)?;
        server.get_mut().write_all(&head.text).map_err(early)?;
        server.get_mut().write_all(body).map_err(early)?;
        let answer = loop {
            let answer = Head::read(server).map_err(early)?;
            let answer = answer.ok_or_else(|| early(io::ErrorKind::UnexpectedEof.into()))?;
            // "Continue" is what the client was told already.
            if answer.word(1) != "100" {
                break answer;
            }
        };
        let bodiless = head.method() == "HEAD";
        let content =
            if bodiless { Vec::new() } else { answer.read_body(server, true).map_err(late)? };
        if !answer.keeps_alive() {
            self.server = None;
        }
        Ok((answer, content))
    }
}

struct Unanswered {
    error: io::Error,
    /// Whether the server closed the connection before it answered at all.
    nothing_read: bool,
}

fn pause(bytes: u64, bytes_per_second: u64) {
    std::thread::sleep(Duration::from_secs_f64(bytes as f64 / bytes_per_second as f64));
}

/// The lines before a body, with the empty one.
struct Head {
    text: Vec<u8>,
}

impl Head {
    /// `None` where the other side has nothing more to say.
    fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut text = Vec::new();
        let mut from = from.take(HEAD_MAX);
        while !text.ends_with(b"\r\n\r\n") {
            if from.read_until(b'\n', &mut text)? == 0 {
                let cut = io::Error::new(io::ErrorKind::UnexpectedEof, "a head is cut off");
                return if text.is_empty() { Ok(None) } else { Err(cut) };
            }
        }
        Ok(Some(Self { text }))
    }

    fn lines(&self) -> impl Iterator<Item = &str> {
        std::str::from_utf8(&self.text).unwrap_or_default().split("\r\n")
    }

    fn word(&self, nth: usize) -> &str {
        self.lines().next().and_then(|line| line.split(' ').nth(nth)).unwrap_or_default()
    }

    fn method(&self) -> &str {
        self.word(0)
    }

    fn target(&self) -> &str {
        self.word(1)
    }

    fn field(&self, name: &str) -> Option<&str> {
        let fields = self.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields
            .into_iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    }

    fn keeps_alive(&self) -> bool {
        !self.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// The body, still chunked if it is.
    fn read_body(&self, from: &mut impl BufRead, is_answer: bool) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if self
            .field("transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
        {
            read_chunks(from, &mut body)?;
        } else if let Some(length) = self.field("content-length") {
            let length = length.parse().ok().filter(|length| *length <= BODY_MAX);
            let length: u64 = length.ok_or(io::ErrorKind::InvalidData)?;
            if from.take(length).read_to_end(&mut body)? as u64 != length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        } else if is_answer && !matches!(self.word(1), "204" | "304") && !self.keeps_alive() {
            from.take(BODY_MAX).read_to_end(&mut body)?;
        }
        Ok(body)
    }
}

/// Chunks up to the empty one and the trailer after it, as they are.
fn read_chunks(from: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let line = body.len();
        from.take(HEAD_MAX).read_until(b'\n', body)?;
        let text = std::str::from_utf8(&body[line..]).unwrap_or_default();
        let size = text.trim_end().split(';').next().unwrap_or_default();
        let size = u64::from_str_radix(size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
        if size == 0 {
            break;
        }
        if size > BODY_MAX || from.take(size + 2).read_to_end(body)? as u64 != size + 2 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    loop {
        let line = body.len();
        if from.take(HEAD_MAX).read_until(b'\n', body)? <= 2 {
            return if body[line..].is_empty() {
                Err(io::ErrorKind::UnexpectedEof.into())
            } else {
                Ok(())
            };
        }
    }
}

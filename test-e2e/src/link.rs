//! A link between two services that is slow, or cut, while both go on running. It is made in the
//! network namespace of the container that calls: packets are dropped there, or new connections are
//! turned aside to a relay in this process, which hands on what it gets after a while. That takes root
//! on the host, and the local cluster: a container has nothing inside that could do it.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::child;
use crate::run::EngineCommand;

/// How long a rule of the packet filter may take.
const RULE_WITHIN: Duration = Duration::from_secs(15);

/// What is wrong with a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// What is sent arrives this much later, in each direction.
    Slow(Duration),
    /// Nothing arrives, and nobody is told.
    Cut,
}

/// A link that is in trouble until this is dropped.
#[derive(Debug)]
#[must_use = "the link is mended when this is dropped"]
pub struct Link {
    namespace: Namespace,
    /// As they were added, the last first.
    rules: Vec<Vec<String>>,
    relays: Vec<Relay>,
}

/// Why nobody here can trouble a link, if that is so.
#[must_use]
pub fn lacks_root() -> Option<String> {
    let is_root = rustix::process::geteuid().is_root();
    (!is_root).then(|| {
        "it troubles a link between two containers, which takes root on the host".to_owned()
    })
}

impl Link {
    /// Troubles the connections of one container to these ports of another.
    ///
    /// # Errors
    /// What the engine, the kernel or the packet filter said; then nothing is troubled.
    pub fn trouble(
        engine: &EngineCommand,
        from: &str,
        to: &str,
        ports: &[u16],
        trouble: Trouble,
    ) -> Result<Self, String> {
        let mut link = Self {
            namespace: Namespace::of(engine.process(from)?)?,
            rules: Vec::new(),
            relays: Vec::new(),
        };
        let address = engine.inner_address(to)?;
        match trouble {
            Trouble::Cut => link.cut(address)?,
            Trouble::Slow(by) => {
                for port in ports {
                    link.slow(SocketAddr::from((address, *port)), by)?;
                }
            }
        }
        Ok(link)
    }

    fn cut(&mut self, address: Ipv4Addr) -> Result<(), String> {
        self.add(&format!(
            "filter OUTPUT --destination {address} --jump DROP"
        ))?;
        self.add(&format!("filter INPUT --source {address} --jump DROP"))
    }

    /// Connections that are open already end: they would go on beside the relay.
    fn slow(&mut self, to: SocketAddr, by: Duration) -> Result<(), String> {
        let relay = self.namespace.relay(to, by)?;
        let here = relay.address.port();
        self.relays.push(relay);
        // The relay is root, and no container is.
        let calls = format!(
            "--protocol tcp --destination {} --dport {} --match owner ! --uid-owner 0",
            to.ip(),
            to.port()
        );
        self.add(&format!(
            "nat OUTPUT {calls} --jump REDIRECT --to-ports {here}"
        ))?;
        self.add(&format!(
            "filter OUTPUT {calls} --jump REJECT --reject-with tcp-reset"
        ))
    }

    /// The table, the chain, and the rest of a rule.
    fn add(&mut self, rule: &str) -> Result<(), String> {
        let rule: Vec<String> = rule.split(' ').map(str::to_owned).collect();
        self.namespace.filter("--append", &rule)?;
        self.rules.insert(0, rule);
        Ok(())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for rule in &self.rules {
            if let Err(error) = self.namespace.filter("--delete", rule) {
                eprintln!("{error}");
            }
        }
    }
}

/// The network namespace of a process.
#[derive(Debug)]
struct Namespace(File);

impl Namespace {
    fn of(process: u32) -> Result<Self, String> {
        let path = format!("/proc/{process}/ns/net");
        let file = File::open(&path).map_err(|error| format!("{path}: {error}"))?;
        Ok(Self(file))
    }

    /// Does it in a thread that is in there; nothing leads a thread back.
    fn enter<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<Result<T, String>>, String> {
        let file = self.0.try_clone().map_err(|error| error.to_string())?;
        Ok(thread::spawn(move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|error| format!("the network namespace of a container: {error}"))?;
            Ok(act())
        }))
    }

    fn filter(&self, what: &str, rule: &[String]) -> Result<(), String> {
        let mut command = Command::new("iptables");
        let [table, chain, rest @ ..] = rule else {
            return Err(format!("{rule:?} is no rule"));
        };
        command.args(["--wait", "--table", table, what, chain]);
        command.args(rest);
        let acted = self.enter(move || child::output(&mut command, RULE_WITHIN))?;
        joined(acted)??;
        Ok(())
    }

    fn relay(&self, to: SocketAddr, by: Duration) -> Result<Relay, String> {
        let (told, hears) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let serving = self.enter(move || {
            let runtime = Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| error.to_string())?;
            runtime.block_on(async {
                let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
                let listener = bound.map_err(|error| error.to_string())?;
                let address = listener.local_addr().map_err(|error| error.to_string())?;
                let _ = told.send(address);
                tokio::select! {
                    () = serve(listener, to, by) => {}
                    _ = stopped => {}
                }
                Ok(())
            })
        })?;
        match hears.recv() {
            Ok(address) => Ok(Relay {
                address,
                stop: Some(stop),
                serving: Some(serving),
            }),
            Err(_) => Err(match joined(serving) {
                Ok(Err(error)) | Err(error) => format!("no relay to {to}: {error}"),
                Ok(Ok(())) => format!("no relay to {to}"),
            }),
        }
    }
}

fn joined<T>(thread: JoinHandle<Result<T, String>>) -> Result<T, String> {
    let joined = thread.join();
    joined.unwrap_or_else(|_| Err("a thread panicked".to_owned()))
}

/// A relay that goes on until this is dropped, and its connections with it.
#[derive(Debug)]
struct Relay {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<Result<Result<(), String>, String>>>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(Err(error)) = self.serving.take().map(|serving| joined(serving).flatten()) {
            eprintln!("a relay: {error}");
        }
    }
}

async fn serve(listener: TcpListener, to: SocketAddr, by: Duration) {
    while let Ok((near, _)) = listener.accept().await {
        tokio::spawn(async move {
            // Who connects waits for the way there and back.
            tokio::time::sleep(by * 2).await;
            let Ok(far) = TcpStream::connect(to).await else {
                return;
            };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let ((near_reads, near_writes), (far_reads, far_writes)) =
                (near.into_split(), far.into_split());
            // When one direction is lost, so is the connection.
            tokio::select! {
                _ = hand_on(near_reads, far_writes, by) => {}
                _ = hand_on(far_reads, near_writes, by) => {}
            }
        });
    }
}

/// Each piece so much later as it came, however many are on their way.
async fn hand_on(
    mut reads: OwnedReadHalf,
    mut writes: OwnedWriteHalf,
    by: Duration,
) -> io::Result<()> {
    let (sender, mut pieces) = tokio::sync::mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let reading = async move {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = reads.read(&mut buffer).await?;
            let piece = buffer[..length].to_vec();
            if sender.send((Instant::now() + by, piece)).is_err() || length == 0 {
                return io::Result::Ok(());
            }
        }
    };
    let writing = async move {
        while let Some((due, piece)) = pieces.recv().await {
            tokio::time::sleep_until(due).await;
            match piece.is_empty() {
                true => writes.shutdown().await?,
                false => writes.write_all(&piece).await?,
            }
        }
        // The other direction may have more to say.
        std::future::pending::<io::Result<()>>().await
    };
    tokio::try_join!(reading, writing).map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener as Listener, TcpStream as Stream};

    use super::*;

    #[test]
    fn a_relay_hands_on_later_and_in_order() {
        const BY: Duration = Duration::from_millis(60);
        let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = listener.local_addr().unwrap();
        let echo = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            stream.write_all(&all).unwrap();
        });
        // Without a namespace to enter, a relay is a relay in this one.
        let (told, hears) = mpsc::channel();
        thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let relay = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
                told.send(relay.local_addr().unwrap()).unwrap();
                serve(relay, to, BY).await;
            });
        });
        let begun = std::time::Instant::now();
        let mut stream = Stream::connect(hears.recv().unwrap()).unwrap();
        for piece in ["one ", "two ", "three"] {
            stream.write_all(piece.as_bytes()).unwrap();
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "one two three");
        // To connect, there and back; then the words, and the answer.
        assert!(begun.elapsed() >= BY * 4, "{:?}", begun.elapsed());
        echo.join().unwrap();
    }
}

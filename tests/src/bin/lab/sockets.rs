//! A real server and real clients.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Barrier},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, SockRef, Socket, Type};
use tracker_tests::{lab::address, namespace::Namespace};

/// Where the server listens.
pub(crate) const PORT: u16 = 7000;
/// Where nobody does.
pub(crate) const CLOSED_PORT: u16 = 7001;
/// Bytes that the server sends after the client has closed its half.
pub(crate) const STREAM: usize = 1 << 20;

/// How long a socket waits for the other end.
const PATIENCE: Duration = Duration::from_secs(8);

/// A server in the host's namespace, on both of its addresses, with a thread for every connection. It repeats each line
/// that it gets, closes first after `bye`, and after `stream` answers the client's FIN with [`STREAM`] bytes.
#[derive(Debug)]
pub(crate) struct Server {
    hold: Arc<Barrier>,
}

impl Server {
    pub(crate) fn start(host: &Namespace) -> Result<Self> {
        let hold = Arc::new(Barrier::new(2));
        for ip in address::HOST {
            // A socket stays in the namespace that it was made in, whoever uses it.
            let listener = host.enter(|| {
                TcpListener::bind((ip, PORT)).with_context(|| format!("listening on {ip}:{PORT}"))
            })?;
            let hold = hold.clone();
            thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    let hold = hold.clone();
                    // Some clients break their connection off on purpose.
                    thread::spawn(move || serve(&stream, &hold).ok());
                }
            });
        }
        Ok(Self { hold })
    }

    /// Lets the server close the connection that it has streamed to.
    pub(crate) fn let_go(&self) {
        self.hold.wait();
    }
}

fn serve(stream: &TcpStream, hold: &Barrier) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    let mut line = String::new();
    let mut streams = false;
    while reader.read_line(&mut line)? > 0 {
        match line.trim_end() {
            "bye" => return Ok(()),
            "stream" => streams = true,
            _ => writer.write_all(line.as_bytes())?,
        }
        line.clear();
    }
    if streams {
        writer.write_all(&vec![b'x'; STREAM])?;
        hold.wait();
    }
    Ok(())
}

/// A client in the peer's namespace, with a connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    /// Its own address and port.
    pub(crate) local: SocketAddr,
    /// The server's.
    pub(crate) remote: SocketAddr,
}

impl Client {
    /// Connects, over IPv4 or IPv6.
    pub(crate) fn connect(peer: &Namespace, ipv6: bool) -> Result<Self> {
        peer.enter(|| Self::connect_here(ipv6))
    }

    /// Connects from the namespace that this thread is in.
    pub(crate) fn connect_here(ipv6: bool) -> Result<Self> {
        let remote = SocketAddr::new(address::HOST[usize::from(ipv6)], PORT);
        let stream = TcpStream::connect_timeout(&remote, PATIENCE)
            .with_context(|| format!("connecting to {remote}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { local: stream.local_addr()?, remote, stream })
    }

    pub(crate) fn tell(&mut self, line: &str) -> Result<()> {
        Ok(self.stream.write_all(format!("{line}\n").as_bytes())?)
    }

    /// Says something, and hears it back.
    pub(crate) fn talk(&mut self, line: &str) -> Result<()> {
        self.tell(line)?;
        let mut heard = vec![0; line.len() + 1];
        self.stream.read_exact(&mut heard)?;
        ensure!(heard == format!("{line}\n").as_bytes(), "the server said something else");
        Ok(())
    }

    /// Sends a FIN, and goes on listening.
    pub(crate) fn close_half(&self) -> Result<()> {
        Ok(self.stream.shutdown(std::net::Shutdown::Write)?)
    }

    /// Reads so many bytes.
    pub(crate) fn hear(&mut self, bytes: usize) -> Result<()> {
        Ok(self.stream.read_exact(&mut vec![0; bytes])?)
    }

    /// Waits until the server has closed.
    pub(crate) fn hear_end(&mut self) -> Result<()> {
        let more = self.stream.read(&mut [0])?;
        ensure!(more == 0, "the server was to close");
        Ok(())
    }

    /// Breaks the connection off with an RST.
    pub(crate) fn reset(self) -> Result<()> {
        Ok(SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?)
    }
}

/// Tries the port that nobody listens on; the addresses that it was tried from and to.
pub(crate) fn be_refused(peer: &Namespace) -> Result<(SocketAddr, SocketAddr)> {
    peer.enter(|| {
        let ([local, _], [remote, _]): ([IpAddr; 2], _) = (address::PEER, address::HOST);
        let remote = SocketAddr::new(remote, CLOSED_PORT);
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(local, 0).into())?;
        let local = socket.local_addr()?.as_socket().context("an IP address")?;
        match socket.connect_timeout(&remote.into(), PATIENCE) {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                Ok((local, remote))
            }
            Err(error) => Err(error).context("connecting to a closed port"),
            Ok(()) => bail!("a port that nobody listens on accepted a connection"),
        }
    })
}

//! Sockets: taking an address early, listening on it once the engine is ready.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream, lookup_host};

use crate::config::Listen;
use crate::error::{Error, Result};

/// Connections that the operating system may hold back for us.
const BACKLOG: u32 = 2048;

/// An address that belongs to this process. Connections are refused until it listens, so that a
/// port in use is found before a model is loaded.
#[derive(Debug)]
pub struct BoundSocket {
    kind: Bound,
    address: String,
}

#[derive(Debug)]
enum Bound {
    Tcp(TcpSocket),
    Unix(PathBuf),
}

impl BoundSocket {
    /// Takes the address.
    ///
    /// # Errors
    /// [`Error::AddressInUse`], [`Error::Resolve`] or [`Error::Bind`].
    pub async fn bind(listen: &Listen) -> Result<Self> {
        let address = listen.display(false);
        let address = address.trim_start_matches("http://").to_owned();
        let kind = match listen {
            Listen::Unix(path) => {
                remove_stale_socket(path)
                    .await
                    .map_err(|error| bind_error(&address, error))?;
                Bound::Unix(path.clone())
            }
            Listen::Tcp { host, port } => {
                let target = resolve(host.as_deref().unwrap_or("0.0.0.0"), *port).await?;
                Bound::Tcp(bind_tcp(target).map_err(|error| bind_error(&address, error))?)
            }
        };
        Ok(Self { kind, address })
    }

    /// The TCP address taken, with the port that was picked for port 0; `None` for a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.kind {
            Bound::Tcp(socket) => socket.local_addr().ok(),
            Bound::Unix(_) => None,
        }
    }

    /// Starts to accept connections.
    pub(crate) fn listen(self) -> Result<Listener> {
        let listener = match self.kind {
            Bound::Tcp(socket) => socket.listen(BACKLOG).map(Listener::Tcp),
            Bound::Unix(path) => {
                UnixListener::bind(&path).map(|listener| Listener::Unix(listener, SocketFile(path)))
            }
        };
        listener.map_err(|error| bind_error(&self.address, error))
    }
}

/// A socket that accepts connections.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    /// The file goes with the listener.
    Unix(
        UnixListener,
        #[expect(dead_code, reason = "held to be dropped")] SocketFile,
    ),
}

/// One accepted connection.
pub(crate) enum Stream {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Listener {
    pub(crate) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Small frames must leave at once; without the option they only leave later.
                let _ = stream.set_nodelay(true);
                Ok(Stream::Tcp(stream, peer))
            }
            Self::Unix(listener, _) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

/// Removes the socket's file when the listener goes.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn resolve(host: &str, port: u16) -> Result<SocketAddr> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let unresolved = |reason: String| Error::Resolve {
        host: host.to_owned(),
        reason,
    };
    let mut addresses = lookup_host((host, port))
        .await
        .map_err(|error| unresolved(error.to_string()))?;
    addresses
        .next()
        .ok_or_else(|| unresolved("nothing found".to_owned()))
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn bind_error(address: &str, source: io::Error) -> Error {
    let address = address.to_owned();
    match source.kind() {
        io::ErrorKind::AddrInUse => Error::AddressInUse { address },
        _ => Error::Bind { address, source },
    }
}

/// A socket file that nobody listens on any more is in the way; one that is in use is not ours.
async fn remove_stale_socket(path: &Path) -> io::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Listen {
        Listen::Tcp {
            host: Some(host.to_owned()),
            port,
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_told_before_listening() {
        let first = BoundSocket::bind(&tcp("127.0.0.1", 0)).await.unwrap();
        let port = first.local_addr().unwrap().port();
        let _listener = first.listen().unwrap();
        let error = BoundSocket::bind(&tcp("127.0.0.1", port))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::AddressInUse { .. }), "{error}");
        assert!(error.to_string().contains(&format!("127.0.0.1:{port}")));
    }

    #[tokio::test]
    async fn a_host_that_does_not_exist_is_named() {
        let error = BoundSocket::bind(&tcp("no such host", 0))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("no such host"), "{error}");
    }

    #[tokio::test]
    async fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listen = Listen::Unix(path.clone());
        drop(UnixListener::bind(&path).unwrap());
        let listener = BoundSocket::bind(&listen).await.unwrap().listen().unwrap();
        let error = BoundSocket::bind(&listen).await.unwrap_err();
        assert!(matches!(error, Error::AddressInUse { .. }), "{error}");
        drop(listener);
        assert!(!path.exists());
    }
}

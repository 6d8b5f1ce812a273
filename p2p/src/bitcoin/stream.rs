//! A connection to a peer: TCP, or the local socket of a proxy. And how to get one, directly or through SOCKS5.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rand::Rng;
use rand::distributions::Alphanumeric;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

use super::config::Proxy;

/// Core's `g_socks5_recv_timeout`.
const SOCKS_DEADLINE: Duration = Duration::from_secs(20);
/// Longest host name a proxy takes.
const MAX_HOST_BYTES: usize = 255;
const CREDENTIAL_CHARS: usize = 16;
const SOCKS5: u8 = 5;
const NO_AUTH: u8 = 0;
const USER_PASS: u8 = 2;
const BY_NAME: u8 = 3;

#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

#[derive(Debug)]
pub(crate) enum ReadHalf {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
}

#[derive(Debug)]
pub(crate) enum WriteHalf {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
}

impl Stream {
    pub(crate) fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Tcp(stream) => {
                // Without it small messages wait for acknowledgements; a socket that refuses works all the same.
                let _ = stream.set_nodelay(true);
                let (read, write) = stream.into_split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
            Self::Unix(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Unix(read), WriteHalf::Unix(write))
            }
        }
    }

    pub(crate) fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_read(cx, buf),
            Self::Unix(half) => Pin::new(half).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_write(cx, buf),
            Self::Unix(half) => Pin::new(half).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_flush(cx),
            Self::Unix(half) => Pin::new(half).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_shutdown(cx),
            Self::Unix(half) => Pin::new(half).poll_shutdown(cx),
        }
    }
}

/// Why a proxy did not connect us. Texts are Core's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocksError {
    #[error("connect() to proxy {0} failed: {1}")]
    Unreachable(String, io::Error),
    #[error("Hostname too long")]
    LongName,
    #[error("Proxy failed to initialize")]
    Version,
    #[error("Proxy requested wrong authentication method {0:02x}")]
    Method(u8),
    #[error("Proxy authentication unsuccessful")]
    Refused,
    #[error("{0}")]
    Reply(&'static str),
    #[error("Error: malformed proxy response")]
    Malformed,
    #[error("Error reading from proxy: {0}")]
    Io(#[from] io::Error),
    #[error("timeout")]
    Timeout,
}

impl SocksError {
    /// The proxy did not do its work; else it did, and the host could not be reached.
    pub(crate) fn is_of_proxy(&self) -> bool {
        !matches!(self, Self::Reply(_) | Self::LongName)
    }
}

/// Connects through a proxy, which looks the host up.
pub(crate) async fn through(proxy: &Proxy, host: &str, port: u16) -> Result<Stream, SocksError> {
    let unreachable = |error| SocksError::Unreachable(proxy.address.clone(), error);
    match proxy.address.strip_prefix("unix:") {
        Some(path) => {
            let mut stream = UnixStream::connect(path).await.map_err(unreachable)?;
            negotiate(&mut stream, proxy.randomize, host, port).await?;
            Ok(Stream::Unix(stream))
        }
        None => {
            let mut stream = TcpStream::connect(&proxy.address).await.map_err(unreachable)?;
            negotiate(&mut stream, proxy.randomize, host, port).await?;
            Ok(Stream::Tcp(stream))
        }
    }
}

async fn negotiate<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    randomize: bool,
    host: &str,
    port: u16,
) -> Result<(), SocksError> {
    let talk = talk(stream, randomize, host, port);
    tokio::time::timeout(SOCKS_DEADLINE, talk).await.map_err(|_| SocksError::Timeout)?
}

/// RFC 1928, with the credentials of RFC 1929 that tell Tor to keep streams apart.
async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    randomize: bool,
    host: &str,
    port: u16,
) -> Result<(), SocksError> {
    tracing::debug!(target: "net", "SOCKS5 connecting {host}");
    let length = u8::try_from(host.len()).map_err(|_| SocksError::LongName)?;
    let methods: &[u8] = if randomize { &[SOCKS5, 2, NO_AUTH, USER_PASS] } else { &[SOCKS5, 1, NO_AUTH] };
    stream.write_all(methods).await?;
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).await?;
    match chosen {
        [SOCKS5, NO_AUTH] => {}
        [SOCKS5, USER_PASS] if randomize => authenticate(stream).await?,
        [SOCKS5, other] => return Err(SocksError::Method(other)),
        _ => return Err(SocksError::Version),
    }
    let mut request = vec![SOCKS5, 1, 0, BY_NAME, length];
    request.extend_from_slice(host.as_bytes());
    request.extend_from_slice(&port.to_be_bytes());
    stream.write_all(&request).await?;
    let mut reply = [0; 4];
    stream.read_exact(&mut reply).await?;
    let [version, result, reserved, kind] = reply;
    if version != SOCKS5 {
        return Err(SocksError::Version);
    }
    if result != 0 {
        return Err(SocksError::Reply(reply_text(result)));
    }
    let bound = match (reserved, kind) {
        (0, 1) => 4,
        (0, 4) => 16,
        (0, BY_NAME) => usize::from(stream.read_u8().await?),
        _ => return Err(SocksError::Malformed),
    };
    let mut rest = [0; MAX_HOST_BYTES + 2];
    stream.read_exact(rest.get_mut(..bound + 2).ok_or(SocksError::Malformed)?).await?;
    tracing::debug!(target: "net", "SOCKS5 connected {host}");
    Ok(())
}

async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<(), SocksError> {
    let word = || -> Vec<u8> { rand::thread_rng().sample_iter(Alphanumeric).take(CREDENTIAL_CHARS).collect() };
    let mut message = vec![1];
    for part in [word(), word()] {
        message.push(u8::try_from(part.len()).unwrap_or(0));
        message.extend_from_slice(&part);
    }
    stream.write_all(&message).await?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).await?;
    if answer == [1, 0] { Ok(()) } else { Err(SocksError::Refused) }
}

fn reply_text(code: u8) -> &'static str {
    match code {
        0x01 => "general failure",
        0x02 => "connection not allowed",
        0x03 => "network unreachable",
        0x04 => "host unreachable",
        0x05 => "connection refused",
        0x06 => "TTL expired",
        0x07 => "protocol error",
        0x08 => "address type not supported",
        0xf0 => "onion service descriptor can not be found",
        0xf1 => "onion service descriptor is invalid",
        0xf2 => "onion service introduction failed",
        0xf3 => "onion service rendezvous failed",
        0xf4 => "onion service missing client authorization",
        0xf5 => "onion service wrong client authorization",
        0xf6 => "onion service invalid address",
        0xf7 => "onion service introduction timed out",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_proxy_is_given_the_name_and_fresh_credentials() {
        let (mut near, mut far) = tokio::io::duplex(1_024);
        let proxy = tokio::spawn(async move {
            let mut hello = [0; 4];
            far.read_exact(&mut hello).await.unwrap();
            assert_eq!(hello, [5, 2, 0, 2]);
            far.write_all(&[5, 2]).await.unwrap();
            let mut credentials = [0; 35];
            far.read_exact(&mut credentials).await.unwrap();
            far.write_all(&[1, 0]).await.unwrap();
            let mut request = [0; 5 + 4 + 2];
            far.read_exact(&mut request).await.unwrap();
            assert_eq!(request, *b"\x05\x01\x00\x03\x04node\x20\x8d");
            far.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
        });
        talk(&mut near, true, "node", 8333).await.unwrap();
        proxy.await.unwrap();
    }

    #[tokio::test]
    async fn a_refusal_is_named() {
        let (mut near, mut far) = tokio::io::duplex(1_024);
        far.write_all(&[5, 0, 5, 5, 0, 1]).await.unwrap();
        let error = talk(&mut near, false, "node", 1).await.unwrap_err();
        assert_eq!(error.to_string(), "connection refused");
    }
}

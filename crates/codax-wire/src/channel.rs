use crate::PACKET_MAX;
use codax_core::{Error, ErrorKind, Result};
use codax_os::sock;
use serde::{Serialize, de::DeserializeOwned};
use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long to look for a message before sleeping: about what one takes to be answered.
const SPIN_MAX: Duration = Duration::from_micros(50);

thread_local! {
    /// What a thread sends, packet by packet.
    static OUTGOING: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// What it receives; as long as the largest packet from the first one on, so that it isn't cleared each time.
    static INCOMING: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A `SOCK_SEQPACKET` socket that carries messages.
///
/// Packets are sent and received whole, so threads may send at the same time; who may receive is for the two sides to agree on.
#[derive(Debug)]
pub struct Channel {
    fd: OwnedFd,
}

impl Channel {
    /// A channel over a connected socket.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Sends one message with descriptors. `NoDaemon` if the other side is gone; `Invalid` if it is larger than a packet.
    pub fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> Result<()> {
        OUTGOING.with_borrow_mut(|packet| {
            packet.clear();
            encode(message, packet)?;
            sock::send(self.fd.as_fd(), packet, fds).map_err(|e| socket_error("send", &e))
        })
    }

    /// Waits for one message. `None` at the end of the connection. `Corrupt` for what can't be decoded, `Busy` when the socket has a
    /// time limit and it passed.
    pub fn recv<T: DeserializeOwned>(&self) -> Result<Option<(T, Vec<OwnedFd>)>> {
        INCOMING.with_borrow_mut(|packet| {
            let (len, fds) = match sock::recv(self.fd.as_fd(), packet, PACKET_MAX) {
                Ok(received) => received,
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(e) => return Err(socket_error("receive", &e)),
            };
            // An empty packet says nothing, and reads as the end of the connection does.
            if len == 0 {
                return Ok(None);
            }
            let bytes = packet.get(..len).ok_or_else(|| Error::corrupt(oversized(len)))?;
            Ok(Some((decode(bytes)?, fds)))
        })
    }

    /// As [`Channel::recv`], for a message that is likely to come at once: looks for it for a moment before it sleeps, since a CPU that has gone
    /// to sleep takes longer to wake than most answers to make.
    pub fn recv_soon<T: DeserializeOwned>(&self) -> Result<Option<(T, Vec<OwnedFd>)>> {
        let until = Instant::now() + SPIN_MAX;
        while !sock::readable(&self.fd).map_err(|e| socket_error("wait", &e))? && Instant::now() < until {
            std::thread::yield_now();
        }
        self.recv()
    }

    /// The socket itself.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Appends `message` to `packet`.
pub(crate) fn encode<T: Serialize>(message: &T, packet: &mut Vec<u8>) -> Result<()> {
    postcard::to_io(message, &mut *packet).map_err(|e| Error::internal(format!("encode a message: {e}")))?;
    if packet.len() > PACKET_MAX {
        return Err(Error::new(ErrorKind::Invalid, oversized(packet.len())));
    }
    Ok(())
}

/// Reads one message that takes up all of `bytes`.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(Error::corrupt(format!("a message with {} bytes too many", rest.len()))),
        Err(e) => Err(Error::corrupt(format!("a message that can't be decoded: {e}"))),
    }
}

fn oversized(len: usize) -> String {
    format!("a message of {len} bytes: at most {PACKET_MAX} fit a packet")
}

fn socket_error(what: &str, e: &io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected => {
            Error::new(ErrorKind::NoDaemon, "the connection is closed by the other side")
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            Error::busy(format!("{what}: the other side did not answer in time"))
        }
        // What sock::recv says of a packet that was cut short.
        io::ErrorKind::InvalidData => Error::corrupt(format!("{what} a message: {e}")),
        _ => Error::internal(format!("{what} a message: {e}")),
    }
}

#[cfg(test)]
mod tests;

//! One client: a handshake, then one request after the other until it hangs up.

use crate::dispatch::Client;
use crate::drive::{self, Applicant};
use crate::fit;
use crate::registry::Place;
use crate::server::Shared;
use codax_core::{Error, ErrorKind, Result};
use codax_engine::{Peer, Session};
use codax_wire::driver::Drive;
use codax_wire::{Channel, HELLO_TIMEOUT, Hello, MAGIC, Reply, Request, VERSION};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tracing::debug;

/// Stack of a session's threads, in bytes.
pub(crate) const STACK_BYTES: usize = 256 << 10;

/// How long a client may leave an answer unread before it is dropped.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves one connection, on a thread of its own.
pub(crate) fn serve(shared: &Arc<Shared>, channel: &Arc<Channel>, peer: Peer, place: Place) {
    let pid = peer.pid;
    if let Err(e) = converse(shared, channel, peer) {
        debug!(pid, "connection dropped: {e}");
        refuse(channel, e);
    }
    // The engine's session is gone before its place is free.
    drop(place);
}

/// Answers with an error and ends the connection.
///
/// What the client has sent meanwhile is read and dropped: with packets left unread the kernel would tell it of a reset connection in place of the answer.
pub(crate) fn refuse(channel: &Channel, error: Error) {
    if fit::send(channel, Reply::Error(error), &[]).is_ok() {
        let _ = rustix::net::shutdown(channel, rustix::net::Shutdown::Both);
        while let Ok((1.., _)) = rustix::net::recv(channel, &mut [0; 1][..], rustix::net::RecvFlags::DONTWAIT)
        {
        }
    }
}

fn converse(shared: &Arc<Shared>, channel: &Arc<Channel>, peer: Peer) -> Result<()> {
    limit_waits(channel, Some(HELLO_TIMEOUT))?;
    let hello = match channel.recv::<Request>() {
        Ok(Some((Request::Hello(hello), _))) => hello,
        Ok(Some(_)) => return Err(Error::invalid("the first request of a session must be Hello")),
        Ok(None) => return Ok(()),
        Err(e) if e.kind == ErrorKind::Busy => {
            return Err(Error::busy(format!("said nothing for {HELLO_TIMEOUT:?} after connecting")));
        }
        Err(e) => return Err(e),
    };
    check_hello(&hello)?;
    let welcome = Reply::Welcome { version: VERSION, pid: std::process::id(), epoch: shared.store.epoch() };
    channel.send(&welcome, &[])?;
    limit_waits(channel, None)?;
    let (uid, pid) = (peer.cred.uid, peer.pid);
    let session = Arc::new(shared.store.connect(peer));
    let mut client = Client::new(shared, channel, session.clone());
    let served = serve_requests(&mut client, channel);
    client.end();
    let served = served.and_then(|drive| match drive {
        Some(wanted) => {
            drive::serve(shared, channel, &Applicant { uid, pid, pidfd: session.pidfd() }, wanted)
        }
        None => Ok(()),
    });
    disconnect(shared, session);
    served
}

/// Answers a client until it hangs up, or wants to drive a device.
fn serve_requests(client: &mut Client<'_>, channel: &Channel) -> Result<Option<Drive>> {
    while let Some((request, fds)) = channel.recv_soon::<Request>()? {
        if let Request::Drive(drive) = request {
            return Ok(Some(*drive));
        }
        let one_way = matches!(
            request,
            Request::Close(_)
                | Request::Unmap { .. }
                | Request::RawDone { .. }
                | Request::Links(_)
                | Request::CloseQueue(_)
        );
        match client.handle(request, fds) {
            Ok(_) if one_way => {}
            Ok((reply, fds)) => fit::send(channel, reply, &fds)?,
            Err(e) => fit::send(channel, Reply::Error(e), &[])?,
        }
    }
    Ok(None)
}

fn disconnect(shared: &Shared, session: Arc<Session>) {
    if shared.stopping.load(Ordering::Acquire) {
        // The store is closed, and the client has not gone: what it maps it will tell the next daemon. Nothing may be taken from it now.
        std::mem::forget(session);
    }
}

fn check_hello(hello: &Hello) -> Result<()> {
    if hello.magic != MAGIC {
        return Err(Error::corrupt(format!("{:#x} is not the greeting of a codax client", hello.magic)));
    }
    if hello.version != VERSION {
        return Err(Error::invalid(format!(
            "the client speaks version {} of the protocol and the daemon version {VERSION}: use the same release of both",
            hello.version
        )));
    }
    Ok(())
}

fn limit_waits(channel: &Channel, receive: Option<Duration>) -> Result<()> {
    set_socket_timeout(channel.as_fd(), Timeout::Recv, receive)
        .and_then(|()| set_socket_timeout(channel.as_fd(), Timeout::Send, Some(SEND_TIMEOUT)))
        .map_err(|e| Error::internal(format!("set a time limit: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_version_is_greeted() {
        assert!(check_hello(&Hello { magic: MAGIC, version: VERSION }).is_ok());
        let stranger = check_hello(&Hello { magic: 7, version: VERSION }).unwrap_err();
        assert_eq!(stranger.kind, ErrorKind::Corrupt);
        let newer = check_hello(&Hello { magic: MAGIC, version: 9 }).unwrap_err();
        assert!(newer.kind == ErrorKind::Invalid && newer.message.contains("version 9"), "{newer}");
    }
}

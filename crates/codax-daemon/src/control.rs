//! The control socket of a session: messages of moves go out over it, in order, and acknowledgements come in.
//!
//! The engine must never wait for a client, and a client must never miss a message in the middle: it would hold a frozen chunk for ever. So
//! what the socket doesn't take at once is queued here, up to a bound. Beyond it the client counts as lost; it still gets all that was queued and
//! then the end of the connection, which it takes as the daemon's death and settles by the commit words.

use codax_core::live::{MoverAck, MoverMsg};
use codax_core::{Error, Result};
use codax_engine::{Mapper, Session};
use codax_wire::Channel;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketType, sendmsg, sockopt};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tracing::{debug, warn};

/// Most messages that wait for a client. A client that answers has a handful on the way; one that is stopped is rolled back at its first.
const QUEUE_MAX: usize = 4096;

/// The daemon's end of a control socket.
#[derive(Debug)]
pub(crate) struct Control {
    channel: Channel,
    outgoing: Mutex<Outgoing>,
    /// Tells the thread that something is queued.
    wake: OwnedFd,
    /// The client's process: a child that it forked keeps its sockets open after its death.
    process: Option<Arc<OwnedFd>>,
}

#[derive(Debug, Default)]
struct Outgoing {
    queue: VecDeque<Packet>,
    /// Nothing more may be sent.
    closed: bool,
    /// So, because the client doesn't read.
    full: bool,
}

#[derive(Debug)]
struct Packet {
    bytes: Vec<u8>,
    fd: Option<OwnedFd>,
}

impl Control {
    /// Over a descriptor that a client handed over, which may be anything.
    pub fn new(fd: OwnedFd, process: Option<Arc<OwnedFd>>) -> Result<Self> {
        if sockopt::socket_type(&fd) != Ok(SocketType::SEQPACKET) {
            return Err(Error::invalid("attach: the descriptor is not a SOCK_SEQPACKET socket"));
        }
        let wake =
            codax_os::event::new().map_err(|e| Error::internal(format!("attach: make an eventfd: {e}")))?;
        Ok(Self { channel: Channel::new(fd), outgoing: Mutex::default(), wake, process })
    }

    /// Ends the connection, whoever waits on it.
    pub fn shut_down(&self) {
        self.outgoing().closed = true;
        let _ = codax_os::sock::shutdown(&self.channel);
    }

    /// Hands on acknowledgements and sends what is queued, until the connection ends.
    fn run(&self, acknowledge: impl Fn(MoverAck)) {
        if let Err(e) = self.run_until_lost(acknowledge) {
            debug!("control socket: {e}");
        }
    }

    fn run_until_lost(&self, acknowledge: impl Fn(MoverAck)) -> Result<()> {
        loop {
            if !self.flush()? {
                if self.outgoing().full {
                    warn!("a client does not read its control socket: {QUEUE_MAX} messages wait, closing it");
                }
                return Ok(());
            }
            if self.wait()? {
                if self.process_ended() {
                    return Ok(());
                }
                match self.channel.recv::<MoverAck>()? {
                    Some((ack, _)) => acknowledge(ack),
                    None => return Ok(()),
                }
            }
        }
    }

    /// Waits until there is something to read (true) or to send.
    fn wait(&self) -> Result<bool> {
        let mut wanted = PollFlags::IN;
        if !self.outgoing().queue.is_empty() {
            wanted |= PollFlags::OUT;
        }
        let mut polled = vec![PollFd::new(&self.channel, wanted), PollFd::new(&self.wake, PollFlags::IN)];
        polled.extend(self.process.as_deref().map(|process| PollFd::new(process, PollFlags::IN)));
        retry_on_intr(|| poll(&mut polled, None)).map_err(|e| Error::internal(format!("poll: {e}")))?;
        let ended = polled.get(2).is_some_and(|process| !process.revents().is_empty());
        let readable =
            ended || polled[0].revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
        if !polled[1].revents().is_empty() {
            // Only to make it unreadable; its count says nothing.
            let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        }
        Ok(readable)
    }

    /// Whether the client's process has ended.
    fn process_ended(&self) -> bool {
        let Some(process) = &self.process else { return false };
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut polled = [PollFd::new(&**process, PollFlags::IN)];
        retry_on_intr(|| poll(&mut polled, Some(&now))).is_ok_and(|n| n > 0)
    }

    /// Sends what is queued as far as the socket takes it. False when all has been sent and nothing may follow.
    fn flush(&self) -> Result<bool> {
        let mut outgoing = self.outgoing();
        while let Some(packet) = outgoing.queue.front() {
            match self.try_send(&packet.bytes, packet.fd.as_ref().map(AsFd::as_fd)) {
                Ok(()) => drop(outgoing.queue.pop_front()),
                Err(Errno::AGAIN) => return Ok(true),
                Err(e) => return Err(gone(e)),
            }
        }
        Ok(!outgoing.closed)
    }

    /// The socket came from the client, who may have kept it and changed its flags: only a flag of the call itself makes sure that it doesn't block.
    fn try_send(&self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> rustix::io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        let fds = fd.as_slice();
        if !fds.is_empty() {
            beside.push(SendAncillaryMessage::ScmRights(fds));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        retry_on_intr(|| sendmsg(&self.channel, &[IoSlice::new(bytes)], &mut beside, flags)).map(drop)
    }

    fn outgoing(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gone(e: Errno) -> Error {
    Error::internal(format!("the client's control socket: {e}"))
}

impl Mapper for Control {
    fn send(&self, message: &MoverMsg, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        let bytes =
            postcard::to_stdvec(message).map_err(|e| Error::internal(format!("encode a message: {e}")))?;
        let mut outgoing = self.outgoing();
        if outgoing.closed {
            return Err(Error::internal("the client's control socket is closed"));
        }
        if outgoing.queue.is_empty() {
            match self.try_send(&bytes, fd) {
                Err(Errno::AGAIN) => {}
                sent => return sent.map_err(gone),
            }
        }
        let full = outgoing.queue.len() >= QUEUE_MAX;
        let fd = fd.filter(|_| !full).map(|fd| fd.try_clone_to_owned()).transpose();
        match fd {
            Ok(fd) if !full => outgoing.queue.push_back(Packet { bytes, fd }),
            // A message that is left out must be the last.
            _ => (outgoing.closed, outgoing.full) = (true, true),
        }
        let kept = if outgoing.closed { Err(gone(Errno::AGAIN)) } else { Ok(()) };
        drop(outgoing);
        // A full counter is signalled already, and nothing else can go wrong with it.
        let _ = codax_os::event::signal(&self.wake);
        kept
    }
}

/// A control socket with its thread.
#[derive(Debug)]
pub(crate) struct Attached {
    control: Arc<Control>,
    session: Arc<Session>,
    thread: std::thread::JoinHandle<()>,
}

impl Attached {
    /// Starts the thread of a session's control socket.
    pub fn start(
        control: Arc<Control>,
        session: Arc<Session>,
        requests: Arc<Channel>,
        stack: usize,
    ) -> Result<Self> {
        let run = {
            let (control, session) = (control.clone(), session.clone());
            move || {
                // Threads of clients wait for what it hands on.
                let _ = codax_os::process::run_soon();
                control.run(|ack| session.ack(ack));
                session.control_lost();
                control.shut_down();
                if control.process_ended() {
                    // Its session ends with it, whoever has inherited its sockets.
                    let _ = codax_os::sock::shutdown(&*requests);
                }
            }
        };
        let thread = std::thread::Builder::new().name("control".into()).stack_size(stack).spawn(run);
        let thread = thread.map_err(|e| Error::internal(format!("attach: start a thread: {e}")))?;
        Ok(Self { control, session, thread })
    }

    /// Ends the connection and the thread.
    pub fn end(self) {
        self.session.control_lost();
        self.control.shut_down();
        // It has told of its end in the log if it panicked.
        let _ = self.thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use codax_core::MoveId;
    use codax_core::live::Step;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn freeze(chunk: u32) -> MoverMsg {
        MoverMsg::Freeze { id: MoveId(1), chunk, closed: false }
    }

    fn attached() -> (Channel, Arc<Control>, Arc<AtomicU32>, std::thread::JoinHandle<()>) {
        let (ours, theirs) = codax_os::sock::pair().unwrap();
        let control = Arc::new(Control::new(ours, None).unwrap());
        let acks = Arc::new(AtomicU32::new(0));
        let thread = std::thread::spawn({
            let (control, acks) = (control.clone(), acks.clone());
            move || {
                control.run(|_| {
                    acks.fetch_add(1, Ordering::Relaxed);
                });
                control.shut_down();
            }
        });
        (Channel::new(theirs), control, acks, thread)
    }

    #[test]
    fn a_client_that_reads_late_misses_nothing() {
        let (client, control, acks, thread) = attached();
        let object = std::fs::File::open("/dev/null").unwrap();
        for chunk in 0..2000 {
            control.send(&freeze(chunk), (chunk % 100 == 0).then(|| object.as_fd())).unwrap();
        }
        for chunk in 0..2000 {
            let (message, fds) = client.recv::<MoverMsg>().unwrap().unwrap();
            assert_eq!((message, fds.len()), (freeze(chunk), usize::from(chunk % 100 == 0)));
            let ack = MoverAck { id: MoveId(1), step: Step::Freeze(chunk), mappings: 0, refused: None };
            client.send(&ack, &[]).unwrap();
        }
        drop(client);
        thread.join().unwrap();
        assert_eq!(acks.load(Ordering::Relaxed), 2000);
        assert!(control.send(&freeze(0), None).is_err());
    }

    #[test]
    fn a_client_that_never_reads_is_lost_and_misses_only_the_end() {
        let (client, control, _, thread) = attached();
        let sent = (0..).take_while(|&chunk| control.send(&freeze(chunk), None).is_ok()).count();
        assert!(sent >= QUEUE_MAX && control.send(&freeze(0), None).is_err());
        for chunk in 0..u32::try_from(sent).unwrap() {
            assert_eq!(client.recv::<MoverMsg>().unwrap().unwrap().0, freeze(chunk));
        }
        assert!(client.recv::<MoverMsg>().unwrap().is_none());
        thread.join().unwrap();
    }

    #[test]
    fn garbage_and_strange_descriptors_end_it() {
        let (client, control, _, thread) = attached();
        codax_os::sock::send(&client, &[0xff; 40], &[]).unwrap();
        thread.join().unwrap();
        assert!(control.send(&freeze(0), None).is_err());
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(Control::new(file.into(), None).unwrap_err().message.contains("SOCK_SEQPACKET"));
    }

    #[test]
    fn a_client_that_changes_the_flags_of_the_socket_blocks_nobody() {
        let (ours, theirs) = codax_os::sock::pair().unwrap();
        let kept = ours.try_clone().unwrap();
        let control = Control::new(ours, None).unwrap();
        rustix::io::ioctl_fionbio(&kept, false).unwrap();
        // Without a thread nothing is taken from the queue, and the socket is full before it is.
        let sent = (0..).take_while(|&chunk| control.send(&freeze(chunk), None).is_ok()).count();
        assert!(sent > QUEUE_MAX);
        drop(theirs);
    }
}

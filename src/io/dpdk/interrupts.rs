//! Coming to terms with DPDK's interrupt thread.
//!
//! DPDK has a thread of its own that answers control sockets of virtual devices and link interrupts. Closing a port
//! and cleaning up free what that thread may be using just then, and take no lock. Both were seen to crash: a peer's
//! hanging up and our closing of the same memif freed its queues twice, and the clean-up unmapped memory while the
//! thread walked a list in it. So before a port closes the thread answers what is due, and before the clean-up it is
//! put to sleep for good.
//!
//! The means is a bell: an event descriptor that the thread listens to beside its own. (DPDK's alarms also run on that
//! thread, but leave a timer and a list entry behind them, and the clean-up waits for their callbacks.)

use std::ffi::c_void;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dpdk_sys as sys;

/// How long the thread may take to answer. It takes microseconds.
const PATIENCE: Duration = Duration::from_secs(1);
/// Rings after which everything that was due at the first was handled: in the first's batch of events the bell may
/// come before others, and a change of the thread's list makes it drop the rest of a batch for the next.
const ROUNDS: usize = 3;

/// What the interrupt thread listens to. It lives as long as the process, as the thread does.
#[derive(Debug)]
pub(super) struct Bell {
    event: File,
    sleep: AtomicBool,
    sender: SyncSender<()>,
    receiver: Mutex<Receiver<()>>,
}

impl Bell {
    /// Hangs the bell up. EAL must be running. `None` when DPDK or the kernel refuses.
    pub(super) fn hang() -> Option<&'static Self> {
        // SAFETY: takes two integers.
        let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if descriptor < 0 {
            return None;
        }
        // SAFETY: the descriptor was just made and has no other owner.
        let event = unsafe { File::from_raw_fd(descriptor) };
        let (sender, receiver) = sync_channel(1);
        let (sleep, receiver) = (AtomicBool::new(false), Mutex::new(receiver));
        let bell: &'static Self = Box::leak(Box::new(Self {
            event,
            sleep,
            sender,
            receiver,
        }));
        bell.listen().then_some(bell)
    }

    /// Has the interrupt thread listen to the bell.
    fn listen(&'static self) -> bool {
        // SAFETY: EAL is running. The handle is never freed: the thread keeps it for the rest of the process's life.
        let handle = unsafe { sys::rte_intr_instance_alloc(sys::POLDER_INTR_PRIVATE) };
        if handle.is_null() {
            return false;
        }
        // SAFETY: the handle was just made.
        let descriptor = unsafe { sys::rte_intr_fd_set(handle, self.event.as_raw_fd()) };
        // SAFETY: as above.
        let kind = unsafe { sys::rte_intr_type_set(handle, sys::POLDER_INTR_EXTERNAL) };
        let argument = std::ptr::from_ref(self).cast_mut().cast::<c_void>();
        // SAFETY: the bell lives for ever, and `answer` takes a bell.
        let listens = unsafe { sys::rte_intr_callback_register(handle, Some(answer), argument) };
        descriptor == 0 && kind == 0 && listens == 0
    }

    /// Waits until the interrupt thread has handled all that is pending. `false` when it does not answer.
    pub(super) fn settle(&self) -> bool {
        (0..ROUNDS).all(|_| self.ring())
    }

    /// Keeps the interrupt thread from ever touching DPDK's memory again. `false` when it does not answer.
    pub(super) fn put_to_sleep(&self) -> bool {
        self.sleep.store(true, Ordering::Relaxed);
        self.ring()
    }

    fn ring(&self) -> bool {
        let receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        // An answer that came too late for its ring is not one to this.
        let _ = receiver.try_recv();
        let rang = (&self.event).write_all(&1_u64.to_ne_bytes());
        rang.is_ok() && receiver.recv_timeout(PATIENCE).is_ok()
    }
}

/// Runs on the interrupt thread.
///
/// # Safety
/// `argument` is a bell.
unsafe extern "C" fn answer(argument: *mut c_void) {
    // SAFETY: by this function's contract; a bell lives for ever.
    let bell: &'static Bell = unsafe { &*argument.cast::<Bell>() };
    let mut rings = [0; 8];
    // Nothing to read means that nobody rang.
    if (&bell.event).read_exact(&mut rings).is_err() {
        return;
    }
    // The write and the read of the event order this after the store that the ringer made.
    let sleep = bell.sleep.load(Ordering::Relaxed);
    // Full when nobody waited for the last answer, which does for this ring as well.
    let _ = bell.sender.try_send(());
    if sleep {
        loop {
            // SAFETY: waits for a signal; there are no arguments.
            unsafe { libc::pause() };
        }
    }
}

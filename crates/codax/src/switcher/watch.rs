//! Looking at what a mapping shows while moves go on: which of it was closed or switched meanwhile.

use super::Shared;
use super::runs::Run;
use crate::link::lock;
use codax_core::{FileId, PageRange};

/// A look at some pages of a mapping, from when it is taken until it is ended.
#[derive(Debug)]
pub(crate) struct Watch<'a> {
    shared: &'a Shared,
    /// `None` when it was ended.
    id: Option<u64>,
    /// What was there when it was taken.
    pub(crate) runs: Vec<Run>,
}

/// What the registry notes of one.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) file: FileId,
    pub(super) pages: PageRange,
    /// Pages that were closed, or switched, at some time since then.
    pub(super) disturbed: Vec<PageRange>,
}

impl Watched {
    /// These pages of the file are closed or switched.
    pub(super) fn disturb(&mut self, file: FileId, pages: PageRange) {
        let here = pages.intersect(self.pages).filter(|_| file == self.file);
        // A chunk is closed, and then it is switched.
        if let Some(pages) = here.filter(|pages| !self.disturbed.contains(pages)) {
            self.disturbed.push(pages);
        }
    }
}

impl Shared {
    /// Takes a look at `pages` of a mapping. No lock is held until it ends.
    pub(crate) fn watch(&self, file: FileId, mapping: u64, pages: PageRange) -> Watch<'_> {
        let (id, runs) = lock(&self.registry).watch(file, mapping, pages);
        Watch { shared: self, id: Some(id), runs }
    }
}

impl Watch<'_> {
    /// Ends it. Returns which of its pages were closed or switched, be it for a moment.
    pub(crate) fn end(mut self) -> Vec<PageRange> {
        self.take()
    }

    fn take(&mut self) -> Vec<PageRange> {
        self.id.take().map(|id| lock(&self.shared.registry).watched(id)).unwrap_or_default()
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.take();
    }
}

//! Worker threads of the data plane: one current-thread runtime per core, each with its own listeners and pools.

use std::cell::Cell;

thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(0) };
}

/// The index of the worker that this thread is, 0 on a thread that is none. Per-worker state is indexed by it.
pub fn index() -> usize {
    INDEX.with(Cell::get)
}

/// Makes this thread the worker of this index. Called once, at the start of a worker.
pub fn set_index(index: usize) {
    INDEX.with(|cell| cell.set(index));
}

//! Time, CPU, memory and I/O of programs, from outside, and what the machine does beside them.

pub mod machine;
pub mod process;
mod tree;

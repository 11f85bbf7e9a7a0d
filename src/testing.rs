//! This file is what the library gives to those who test with it, or test a store of their own.
//!
//! ```text
//! given          an aggregate alone: given these events, when this command, then that
//! faulty faults  a store that fails on command
//! conformance    the contract of a store as 150 tests, see `store_conformance_tests!`
//! virtual_clock  a clock that moves with the time of the runtime
//! batch          builds batches with right positions and hashes
//! whole_log      all that a log holds
//! ```

pub mod batch;
pub mod conformance;
pub mod faults;
pub mod faulty;
pub mod given;
pub mod virtual_clock;
pub mod whole_log;

pub use batch::BatchBuilder;
pub use conformance::StoreUnderTest;
pub use faults::{AppendFault, Faults};
pub use faulty::FaultyStore;
pub use given::given;
pub use virtual_clock::VirtualClock;
pub use whole_log::whole_log;

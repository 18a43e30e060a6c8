//! The running peer: owns every task and ends them in a written-out order.

pub mod home;
pub mod socket;

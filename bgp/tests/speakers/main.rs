//! Several speakers together, through the public interface only.

mod configuration;
mod faults;
mod mesh;
mod network;
mod propagation;
mod restart;
mod scripted;
mod timers;

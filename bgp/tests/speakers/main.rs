//! Several speakers together, through the public interface only.

mod add_paths;
mod configuration;
mod dynamic;
mod faults;
mod hostile;
mod identity;
mod limits;
mod mesh;
mod multipath;
mod network;
mod policy;
mod propagation;
mod refresh;
mod restart;
mod roles;
mod scripted;
mod selection;
mod slices;
mod timers;

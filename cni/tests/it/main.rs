//! The real program, called as a runtime calls it, against a scripted agent.

mod agent;
mod answers;
mod bad_input;
mod calls;
mod corpus;
mod delegate;
mod install;
mod protocol;

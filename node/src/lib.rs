//! The node agent: tasks, mailboxes, sockets, start-up, health, metrics.

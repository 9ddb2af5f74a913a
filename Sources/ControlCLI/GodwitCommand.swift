internal import ArgumentParser

/// The root: nouns, then verbs.
struct GodwitCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "godwit",
        abstract: "Keeps the disks of running guests safe and mobile.",
        discussion: "See godwit(7) for the concepts and a worked example, and godwit(1) for the exit statuses.",
        version: Program.version,
        subcommands: [
            DiskCommand.self, SnapshotCommand.self, StoreCommand.self, BackupCommand.self, PointsCommand.self,
            RestoreCommand.self, MigrateCommand.self, AgentCommand.self, StatusCommand.self,
            FreezeGuardCommand.self, KernelOwnerCommand.self, DiskServerCommand.self, MountHelper.self,
            UmountHelper.self,
        ])
}

internal import ArgumentParser

struct StoreCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "store", abstract: "Make, check and repair the places that backups go to.",
        subcommands: [StoreInit.self, StoreVerify.self, StoreRepair.self, StoreStats.self])
}

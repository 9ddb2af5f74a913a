internal import ArgumentParser

struct StoreCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "store", abstract: "Make and check the places that backups go to.",
        subcommands: [StoreInit.self, StoreVerify.self, StoreStats.self])
}

internal import AgentCore
internal import ArgumentParser
internal import Backup
internal import BlockIO
internal import ChunkTree

struct StoreInit: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "init", abstract: "Make an empty store.")

    @Argument(help: .store, completion: .directory) var store: String
    @OptionGroup var common: CommonOptions

    func run() throws {
        let location = try StoreArgument(store, common.configuration()).location
        let uuid = newUUID()
        try location.create(
            uuid: uuid, chunkBytes: TreeShape.chunkBytesStandard, fs: LinuxFileSystem(), product: Program.product)
        try Report(common).result(
            StoreInitReport(store: "\(location)", id: uuid), ["\(location) is an empty store now"])
    }
}

private struct StoreInitReport: Encodable {
    var store: String
    var id: String
}

internal import AgentCore
internal import BackupStore
internal import BlockIO
internal import Geometry

/// What the user calls a store: a name of the configuration where there is no such folder, else a folder or a URL.
struct StoreArgument {
    let location: StoreLocation

    init(_ text: String, _ configuration: Configuration) throws(CommandFailure) {
        var text = text
        if !PathText.hasSlash(text), let named = configuration.location(of: text) {
            let isFolder = try translated { try LinuxFileSystem().exists(text) }
            if !isFolder { text = named }
        }
        location = try translated { try StoreLocation(parsing: text) }
    }

    /// - Parameter writable: otherwise nothing in the store is touched.
    func open(writable: Bool, _ common: CommonOptions) throws(CommandFailure) -> any StoreBackend {
        let report = Report(common)
        return try translated {
            try location.open(
                writable: writable, fs: LinuxFileSystem(), product: Program.product,
                onErrorLine: { report.detail("\(location): \($0)") })
        }
    }
}

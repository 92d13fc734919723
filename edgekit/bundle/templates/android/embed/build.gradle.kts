plugins {
    id("com.android.library")
    kotlin("android")
}

android {
    namespace = "edgekit.android"
    compileSdk = 36
    defaultConfig {
        minSdk = 28 // ImageDecoder applies EXIF orientation
        testInstrumentationRunner = "androidx.test.runner.AndroidJUnitRunner"
    }
    androidResources { noCompress += listOf("tflite", "onnx") }
    // The instrumented test carries the bundle's golden files and models.
    val bundle = rootDir.parentFile
    sourceSets["androidTest"].assets.srcDir(layout.buildDirectory.dir("bundle"))
    tasks.register<Copy>("copyBundle") {
        from(bundle) { include("preprocessor_config.json", "golden/**", "tflite/model_w8a8.tflite", "onnx/model_quantized.onnx") }
        into(layout.buildDirectory.dir("bundle"))
    }
    tasks.named("preBuild") { dependsOn("copyBundle") }
}

kotlin { jvmToolchain(17) }

dependencies {
    api(project(":core"))
    implementation("com.google.ai.edge.litert:litert:2.3.0")
    implementation("com.microsoft.onnxruntime:onnxruntime-android:1.23.0")
    androidTestImplementation("androidx.test.ext:junit:1.3.0")
    androidTestImplementation("androidx.test:runner:1.7.0")
}
